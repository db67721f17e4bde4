# Focal-Tiny on ImageNet-1K kept in LMDB files (pip install lmdb), whose keys are the
# files' paths in train/ and val/; README.md shows how to write one. The lists
# meta/{train,val}.txt (PATH LABEL) are ordinary files.
_base_ = "../focal_tiny_in1k_224.py"

data_root = "data/imagenet_lmdb"
train_backend = dict(backend="lmdb", db_path=f"{data_root}/train.lmdb")
val_backend = dict(backend="lmdb", db_path=f"{data_root}/val.lmdb")

train_dataloader = dict(
    dataset=dict(
        data_root="",
        split="",
        ann_file=f"{data_root}/meta/train.txt",
        pipeline=[
            dict(type="LoadImageFromFile", backend_args=train_backend),
            *_base_.train_pipeline[1:],
        ],
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root="",
        split="",
        ann_file=f"{data_root}/meta/val.txt",
        pipeline=[
            dict(type="LoadImageFromFile", backend_args=val_backend),
            *_base_.test_pipeline[1:],
        ],
    )
)
test_dataloader = val_dataloader
