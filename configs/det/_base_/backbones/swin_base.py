_base_ = "./swin_small.py"
backbone = dict(embed_dims=128, num_heads=(4, 8, 16, 32), drop_path_rate=0.3)
channels = [128 * 2**stage for stage in range(4)]
pretraining = "swin_base_in1k_224"
