_base_ = "./pvt_small.py"
backbone = dict(num_layers=[3, 4, 18, 3])
pretraining = "https://github.com/whai362/PVT/releases/download/v2/pvt_medium.pth"
