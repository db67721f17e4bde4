"""Heads for another number of classes than the data has are named, with the remedy."""

import shlex

import pytest
from mmengine.config import Config

from focal_mm.engine.checks import check_classes
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError
from focal_mm.engine.options import Parser, add_cfg_options

NAMES = ["circle", "square", "triangle"]


def dataset(classes: object = None, kind: str = "CocoDataset") -> dict:
    metainfo = {} if classes is None else dict(metainfo=dict(classes=classes))
    return dict(type=kind, **metainfo)


def make(heads: dict, *datasets: dict, scope: str = "mmdet") -> tuple[Config, list]:
    """A config with some heads, and its data sets with their keys."""
    leaves = {
        f"{name}_dataloader": data for name, data in zip("ab", datasets, strict=False)
    }
    cfg = Config(dict(model=heads, default_scope=scope, **leaves))
    return cfg, [(key, cfg[key]) for key in leaves]


def line_of(*args) -> str:
    with pytest.raises(UserError) as caught:
        check_classes(*args)
    line = str(caught.value)
    assert "\n" not in line
    return line


def options_of(line: str) -> list[str]:
    """What the line tells to add, as the shell splits it."""
    return shlex.split(line.partition("add --cfg-options ")[2])


def test_every_head_is_listed_and_no_other():
    head = dict(num_classes=80)
    heads = dict(
        backbone=dict(num_classes=1000),
        rpn_head=dict(num_classes=1),
        bbox_head=dict(num_classes=3),
        roi_head=dict(bbox_head=[head, head], mask_head=head, semantic_head=head),
    )
    line = line_of(*make(heads, dataset(NAMES)))
    assert "a_dataloader has 3 classes" in line
    assert "made for 80" in line
    assert options_of(line) == [
        "model.roi_head.bbox_head.0.num_classes=3",
        "model.roi_head.bbox_head.1.num_classes=3",
        "model.roi_head.mask_head.num_classes=3",
    ]


def test_the_options_are_the_remedy(tmp_path):
    cfg, _ = make(dict(roi_head=dict(bbox_head=[dict(num_classes=80)] * 2)))
    cfg.merge_from_dict({"a": dataset(NAMES), "b": dataset(["other"])})
    cfg.dump(tmp_path / "config.py")

    def load(*options: str) -> tuple[Config, list]:
        parser = Parser()
        add_cfg_options(parser)
        args = parser.parse_args(["--cfg-options", *options])
        cfg = load_config(tmp_path / "config.py", args.cfg_options)
        return cfg, [(key, cfg[key]) for key in "ab"]

    first = options_of(line_of(*load("load_from=x")))
    assert first == ["b.metainfo.classes=[circle,square,triangle]"]
    second = options_of(line_of(*load(*first)))
    check_classes(*load(*first, *second))


def test_a_type_knows_its_classes():
    heads = dict(bbox_head=dict(num_classes=80))
    check_classes(*make(heads, dataset()))
    heads["bbox_head"]["num_classes"] = 3
    assert "has 80 classes" in line_of(*make(heads, dataset()))


def test_written_classes_go_before_those_of_a_type():
    heads = dict(bbox_head=dict(num_classes=3))
    line = line_of(*make(heads, dataset(), dataset(NAMES)))
    assert options_of(line) == [
        "a_dataloader.metainfo.classes=[circle,square,triangle]"
    ]


def test_classes_of_a_file(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("traffic light\n7\n")
    heads = dict(bbox_head=dict(num_classes=3))
    line = line_of(*make(heads, dataset(str(file))))
    assert options_of(line) == ["model.bbox_head.num_classes=2"]
    line = line_of(*make(heads, dataset(str(file)), dataset(NAMES)))
    assert options_of(line) == [f"b_dataloader.metainfo.classes={file}"]
    # The command line would lose the space and read a number.
    line = line_of(*make(heads, dataset(["traffic light", "7"]), dataset(NAMES)))
    assert "FILE_WITH_A_CLASS_PER_LINE" in line


def test_what_cannot_be_known_is_left_alone():
    heads = dict(head=dict(num_classes=3))
    check_classes(*make(heads, dataset(kind="NoSuchDataset")))
    words = dict(language_model=dict(), bbox_head=dict(num_classes=256))
    check_classes(*make(words, dataset(NAMES)))


def test_segmentors():
    heads = dict(
        decode_head=dict(num_classes=150), auxiliary_head=[dict(num_classes=2)]
    )
    line = line_of(*make(heads, dataset(kind="ADE20KDataset"), scope="mmseg"))
    assert options_of(line) == ["model.auxiliary_head.0.num_classes=150"]


def test_test_time_augmentation_wraps_the_model():
    model = dict(type="TTA", module=dict(bbox_head=dict(num_classes=80)))
    line = line_of(*make(model, dataset(NAMES)))
    assert options_of(line) == ["model.bbox_head.num_classes=3"]
