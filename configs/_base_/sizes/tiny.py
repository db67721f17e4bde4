# Sizes of the backbone for every task: its preset, and the channels of the four stages
# that the preset implies, for whatever is built on them.
arch = "tiny"
channels = [96 * 2**stage for stage in range(4)]
