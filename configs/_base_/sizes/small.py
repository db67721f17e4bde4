arch = "small"
channels = [96 * 2**stage for stage in range(4)]
