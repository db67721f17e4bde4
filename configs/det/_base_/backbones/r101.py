_base_ = "./r50.py"
backbone = dict(depth=101)
pretraining = "torchvision://resnet101"
