_base_ = "./focal.py"
backbone = dict(arch="base", drop_path_rate=0.5)
channels = [128 * 2**stage for stage in range(4)]
