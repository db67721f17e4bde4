_base_ = "./focal.py"
focal_backbone = dict(arch="tiny", drop_path_rate=0.2)
focal_channels = [96, 192, 384, 768]
