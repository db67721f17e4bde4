# ImageNet-22K (fall 2011: 21,841 classes; some lists have 21,842) as train/CLASS/*.JPEG
# or with a list meta/train.txt. It has no validation set.
_base_ = "./imagenet_224.py"

data_preprocessor = dict(num_classes=21841)
train_dataloader = dict(
    dataset=dict(type="ImageNet21k", data_root="data/imagenet22k"),
)
val_dataloader = test_dataloader = None
val_evaluator = test_evaluator = None
