# "[...] increasing the hidden dimension in Focal-Base from 128 to 196 while keeping all
# the other hyperparameters the same" (paper, section 4.1). docs/complexity.md holds it
# against the parameters of its rows, beside the preset large_192.
arch = "large"
channels = [196 * 2**stage for stage in range(4)]
