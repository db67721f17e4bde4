_base_ = "./focal.py"
backbone = dict(arch="tiny", drop_path_rate=0.2)
channels = [96 * 2**stage for stage in range(4)]
