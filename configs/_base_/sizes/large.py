# "[...] increasing the hidden dimension in Focal-Base from 128 to 196 while keeping all
# the other hyperparameters the same" (paper, section 4.1): so the heads too. One
# backbone for all rows; docs/sources.md has the other readings.
arch = "large"
channels = [196 * 2**stage for stage in range(4)]
