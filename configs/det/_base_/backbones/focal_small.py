_base_ = "./focal.py"
backbone = dict(arch="small", drop_path_rate=0.3)
channels = [96 * 2**stage for stage in range(4)]
