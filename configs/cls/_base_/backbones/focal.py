# What the classifiers of every size share (paper, section 3.3): at 224x224 the last
# stage's map is one window, so nothing is left to expand it by.
backbone = dict(
    type="FocalTransformer",
    window_size=7,
    focal_levels=2,
    focal_windows=(7, 5, 3, 1),
    expand_sizes=(3, 3, 3, 0),
)
