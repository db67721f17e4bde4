arch = "base"
channels = [128 * 2**stage for stage in range(4)]
