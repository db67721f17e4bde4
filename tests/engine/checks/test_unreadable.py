"""Images that turn unreadable in training are replaced, and logged, up to a number."""

import pytest
from mmengine.config import Config
from mmengine.dataset import RepeatDataset
from mmengine.registry import DATASETS, init_default_scope
from torch.utils.data import DataLoader

from focal_mm.engine import train
from focal_mm.engine.checks import replace_unreadable
from focal_mm.engine.checks.unreadable import ReplaceUnreadable, _loaders
from focal_mm.engine.errors import UserError


@pytest.fixture
def images(tmp_path, toy_model, monkeypatch):
    """Copies of the toy data set's two images, and a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    names = ("0.png", "1.png")
    for name in names:
        (tmp_path / name).write_bytes((toy_model("mmdet").images / name).read_bytes())
    return [tmp_path / name for name in names]


def run(toy_model, images, capsys) -> tuple[int, str, str]:
    prefix = f"train_dataloader.dataset.data_prefix.img={images[0].parent}/"
    options = ["--no-data-check", "--cfg-options", prefix, "train_cfg.max_iters=2"]
    code = train.main([str(toy_model("mmdet").config), *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_another_image_takes_its_place(toy_model, images, capsys):
    images[0].write_bytes(images[0].read_bytes()[:100])
    code, out, err = run(toy_model, images, capsys)
    assert (code, err) == (0, "")
    assert f"{images[0]} is truncated: another image takes its place (1 of 20" in out


def test_too_many_are_one_line(toy_model, images, capsys):
    for path in images:
        path.unlink()
    code, out, err = run(toy_model, images, capsys)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "more than 20 images of an epoch are unreadable" in err
    assert "(missing)" in err


def test_workers_count_together_and_epochs_anew(images):
    transform = ReplaceUnreadable(dict(type="LoadImageFromFile"), most=3)
    samples = [dict(img_path="gone.png")] * 4
    for _ in range(2):
        batches = iter(
            DataLoader(Mapped(samples, transform), num_workers=2, collate_fn=list)
        )
        with pytest.raises(UserError, match="more than 3 images"):
            list(batches)
        transform.reset()


class Mapped:
    def __init__(self, samples, transform):
        self.samples, self.transform = samples, transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.transform(dict(self.samples[index]))


def test_other_errors_of_loading_stay(images):
    transform = ReplaceUnreadable(dict(type="LoadImageFromFile", color_type="no"))
    with pytest.raises(Exception, match="no"):
        transform(dict(img_path=str(images[0])))


def test_every_training_loader_is_wrapped_once():
    def dataset() -> dict:
        return dict(type="X", pipeline=[dict(type="mmdet.LoadImageFromFile"), dict()])

    cfg = Config(
        dict(
            train_dataloader=dict(dataset=dict(type="C", datasets=[dataset()] * 2)),
            val_dataloader=dict(dataset=dataset()),
            custom_hooks=[dict(type="Other")],
        )
    )
    replace_unreadable(cfg)
    once = cfg.pretty_text
    assert once.count("ReplaceUnreadable") == 2
    assert [hook.type for hook in cfg.custom_hooks] == ["Other", "UnreadableImagesHook"]
    replace_unreadable(cfg)
    assert cfg.pretty_text == once


def test_loaders_are_found_within_wrappers(toy_model):
    cfg = Config.fromfile(toy_model("mmdet").config)
    init_default_scope("mmdet")
    replace_unreadable(cfg)
    dataset = RepeatDataset(DATASETS.build(cfg.train_dataloader.dataset), 2)
    assert len(_loaders(dataset)) == 1
