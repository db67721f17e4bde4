"""What is wrong in data is counted and named before a run, whatever the format."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from focal_mm.engine.checks import coco as coco_file
from focal_mm.engine.checks.data import check_data, raise_errors, write_fixed
from focal_mm.engine.checks.preflight import local_datasets
from focal_mm.engine.errors import UserError
from tools import check_data as tool

IMAGES = Path("data/images")


def check(cfg: Config):
    (checked,) = check_data(cfg, local_datasets(cfg, ["train"]))
    return checked


def rows_of(cfg: Config) -> dict[str, tuple[int, bool]]:
    return {what: (number, error) for what, number, error, _ in check(cfg).rows()}


def truncate(name: str) -> None:
    path = IMAGES / name
    path.write_bytes(path.read_bytes()[:-40])


def annotation(index: int, **values: object):
    return lambda data: data["annotations"][index].update(values)


def image(index: int, **values: object):
    return lambda data: data["images"][index].update(values)


def rename(data: dict) -> None:
    data["categories"][1]["name"] = "rectangle"


def test_sound_data_has_no_rows(coco):
    assert rows_of(coco()) == {}


@pytest.mark.parametrize(
    ("change", "what", "is_error"),
    [
        (rename, "classes that no category is called", True),
        (
            lambda data: data["categories"].reverse(),
            "categories in another order than metainfo.classes",
            True,
        ),
        (
            lambda data: data["categories"].append(dict(id=9, name="circle")),
            "categories with one name",
            True,
        ),
        (
            lambda data: data["categories"].append(dict(id=1, name="other")),
            "categories with one id",
            True,
        ),
        (image(1, width=30, height=40), "images of another size", True),
        (image(1, file_name="gone.jpg"), "images that are missing", True),
        (lambda data: data["images"][0].pop("file_name"), "images without id", True),
        (annotation(1, id=1), "annotations with one id", True),
        (annotation(1, bbox=[5, 5, 10]), "annotations without bbox", True),
        (lambda data: data["annotations"][0].pop("area"), "annotations without", True),
        (lambda data: data["annotations"].clear(), "files without a box", True),
        (lambda data: data["annotations"][0].pop("segmentation"), "instances", True),
        (
            annotation(0, segmentation=dict(size=[9, 9], counts="1")),
            "segmentations without the size",
            True,
        ),
        (annotation(0, bbox=[5, 5, 0, 10]), "boxes of no area", False),
        (annotation(0, area=0), "boxes of no area", False),
        (annotation(0, bbox=[5, 5, -4, 10]), "boxes of negative size", False),
        (annotation(0, bbox=[5, float("nan"), 4, 4]), "boxes that are NaN", False),
        (annotation(0, bbox=[50, 5, 10, 10]), "boxes outside the image", False),
        (annotation(0, category_id=7), "boxes of a category", False),
        (annotation(0, image_id=99), "boxes of an image that", False),
        (annotation(0, segmentation=[[1, 2, 3]]), "broken segmentations", False),
        (annotation(0, segmentation=dict(counts=None)), "broken", False),
    ],
)
def test_annotations(coco, change, what, is_error):
    (found, (number, error)), *others = rows_of(coco(change)).items()
    assert found.startswith(what)
    assert (number, error) == (1, is_error)
    # A category that is not known leaves boxes out too.
    assert [name for name, _ in others] in ([], ["boxes of other categories"])


def test_images_with_one_id_are_all_named(coco):
    rows = rows_of(coco(image(1, id=0)))
    assert rows["images with one id"] == (2, True)


def test_classes_may_be_fewer_than_categories(coco):
    cfg = coco()
    cfg.train_dataloader.dataset.metainfo.classes = ["circle", "triangle"]
    assert rows_of(cfg) == {"boxes of other categories": (3, False)}


@pytest.mark.parametrize("text", ["", "[1, 2", "[]", '{"images": 3}', "\x00"])
def test_files_of_another_form(coco, text):
    cfg = coco()
    Path("data/train.json").write_text(text)
    with pytest.raises(UserError, match=r"data/train\.json is no"):
        raise_errors([check(cfg)])


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (truncate, "images that are truncated"),
        (lambda name: (IMAGES / name).unlink(), "images that are missing"),
        (lambda name: (IMAGES / name).write_bytes(b""), "images that are empty"),
        (lambda name: (IMAGES / name).write_text("no"), "images that are unreadable"),
    ],
)
@pytest.mark.parametrize("name", ["0.jpg", "3.png"])
def test_image_files(coco, damage, what, name):
    cfg = coco()
    damage(name)
    assert rows_of(cfg) == {what: (1, True)}


def test_bytes_after_the_end_are_no_damage_and_orientation_counts(coco):
    with (IMAGES / "0.jpg").open("ab") as file:
        file.write(b"trailing")
    picture = Image.open(IMAGES / "1.jpg")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(IMAGES / "1.jpg", exif=exif)
    assert rows_of(coco()) == {"images of another size": (1, True)}
    assert rows_of(coco(image(1, width=30, height=40))) == {}


def test_a_line_for_errors_and_notes_for_what_is_left_out(coco):
    notes = raise_errors([check(coco(annotation(0, area=0)))])
    (note,) = notes
    assert note.startswith("train_dataloader.dataset: left out")
    assert "1 boxes of no area" in note

    def both(data: dict) -> None:
        rename(data)
        data["images"].pop()

    with pytest.raises(UserError) as caught:
        raise_errors([check(coco(both))])
    line = str(caught.value)
    assert "\n" not in line
    assert "square (the file also has rectangle)" in line


def break_much(data: dict) -> None:
    for index, values in enumerate(
        [dict(bbox=[5, 5, 0, 1]), dict(id=5), dict(image_id=9), dict(category_id=9)]
    ):
        data["annotations"][index].update(values)
    data["annotations"][4]["bbox"][0] = float("nan")
    data["images"][2].update(width=10, height=20)
    data["images"].append(dict(data["images"][0]))


def test_the_fixed_copy_is_sound_and_the_original_stays(coco, tmp_path):
    cfg = coco(break_much)
    (IMAGES / "3.png").write_bytes(b"")
    original = Path("data/train.json").read_bytes()
    checked = check(cfg)
    assert len(checked.rows()) >= 7
    written = write_fixed([checked], tmp_path / "fixed")
    assert Path("data/train.json").read_bytes() == original
    cfg.train_dataloader.dataset.ann_file = str(written["train_dataloader.dataset"])
    assert rows_of(cfg) == {}
    kept = json.loads((tmp_path / "fixed/train.json").read_text())
    assert [entry["id"] for entry in kept["images"]] == [0, 1, 2]
    dataset = dict(cfg.train_dataloader.dataset, pipeline=[])
    boxes = [
        len(data["instances"]) for data in DATASETS.build(dataset).load_data_list()
    ]
    assert sum(boxes) == len(kept["annotations"]) == 2
    for folder in (tmp_path / "fixed", tmp_path / "data"):
        with pytest.raises(UserError, match="is there already"):
            write_fixed([checked], folder)
    assert Path("data/train.json").read_bytes() == original


@pytest.fixture
def segmentation(tmp_path, monkeypatch):
    """A config of three images with label maps of 3 classes, in data/."""
    monkeypatch.chdir(tmp_path)
    shutil.rmtree("data", ignore_errors=True)
    for index in range(3):
        for folder in ("images", "labels"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        labels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
        Image.fromarray(np.stack([labels] * 3, -1)).save(f"data/images/{index}.png")
        Image.fromarray(labels).save(f"data/labels/{index}.png")
    dataset = dict(
        type="BaseSegDataset",
        data_root="data",
        data_prefix=dict(img_path="images", seg_map_path="labels"),
        img_suffix=".png",
        metainfo=dict(classes=["a", "b", "c"]),
    )
    model = dict(decode_head=dict(num_classes=3))
    loader = dict(dataset=dataset)
    return Config(dict(default_scope="mmseg", model=model, train_dataloader=loader))


def write_labels(value: int, shape: tuple[int, ...] = (3, 4)) -> None:
    Image.fromarray(np.full(shape, value, np.uint8)).save("data/labels/1.png")


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda: write_labels(3), "label maps with labels outside the palette"),
        (lambda: write_labels(2, (4, 3)), "label maps of another size than the image"),
        (
            lambda: write_labels(2, (3, 4, 3)),
            "label maps that are no label",
        ),
        (lambda: Path("data/labels/1.png").unlink(), "label maps that are missing"),
        (lambda: Path("data/images/1.png").write_bytes(b"x"), "images that are unread"),
        (lambda: shutil.rmtree("data/images"), "files that cannot be read"),
    ],
)
def test_label_maps(segmentation, damage, what):
    assert rows_of(segmentation) == {}
    damage()
    ((found, (number, error)),) = rows_of(segmentation).items()
    assert found.startswith(what)
    assert (number, error) == (1, True)


def test_ignored_and_reduced_labels(segmentation):
    write_labels(255)
    assert rows_of(segmentation) == {}
    segmentation.train_dataloader.dataset.reduce_zero_label = True
    write_labels(3)
    assert rows_of(segmentation) == {}
    write_labels(4)
    assert "label maps with labels outside the palette" in rows_of(segmentation)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda: None, None),
        (lambda: Path("data/b/0.png").write_bytes(b""), "images that are empty"),
        (lambda: shutil.copytree("data/b", "data/c"), "labels beyond the 2 classes"),
        (
            lambda: [p.unlink() for p in Path("data").rglob("*.png")],
            "files that cannot",
        ),
    ],
)
def test_folders(tmp_path, monkeypatch, damage, what):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(f"data/{name}/0.png")
    dataset = dict(type="CustomDataset", data_prefix="data")
    model = dict(head=dict(num_classes=2))
    loader = dict(dataset=dataset)
    cfg = Config(dict(default_scope="mmpretrain", model=model, train_dataloader=loader))
    damage()
    rows = rows_of(cfg)
    assert [found.startswith(what) for found in rows] == ([True] if what else [])


def test_the_command_line(coco, tmp_path, capsys):
    cfg = coco(break_much)
    cfg.dump("config.py")
    assert tool.main(["config.py"]) == 1
    captured = capsys.readouterr()
    assert "boxes of no area" in captured.out
    assert captured.err.count("\n") == 1
    assert tool.main(["config.py", "--fix", "fixed"]) == 0
    out = capsys.readouterr().out
    option = f"train_dataloader.dataset.ann_file={tmp_path / 'fixed' / 'train.json'}"
    assert option in out.replace("\n", "")
    assert tool.main(["config.py", "--cfg-options", option]) == 0
    # What leaving out does not mend stays an error.
    coco(rename)
    assert tool.main(["config.py", "--fix", "renamed"]) == 1


def test_cleaning_leaves_the_data_itself_alone(coco):
    checked = check(coco(break_much))
    before = json.dumps(checked.annotations)
    coco_file.clean(checked.annotations, checked.problems)
    assert json.dumps(checked.annotations) == before
