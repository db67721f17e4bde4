"""Images that turn unreadable in training are replaced, and logged, up to a number."""

import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from torch.utils.data import DataLoader

from focal_mm.engine import train
from focal_mm.engine.checks.unreadable import ReplaceUnreadable, replace_unreadable
from focal_mm.engine.errors import UserError
from focal_mm.engine.launch import build_runner


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
    transform = ReplaceUnreadable(LoadImageFromFile(), most=3)
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
    transform = ReplaceUnreadable(LoadImageFromFile(color_type="no"))
    with pytest.raises(Exception, match="no"):
        transform(dict(img_path=str(images[0])))


def test_training_data_sets_are_found_within_wrappers(toy_model, tmp_path):
    """And those of validation fail as they did; the config says nothing of it."""
    cfg = Config.fromfile(toy_model("mmdet").config)
    cfg.train_dataloader.dataset = dict(
        type="RepeatDataset", dataset=cfg.train_dataloader.dataset, times=2
    )
    cfg.work_dir = str(tmp_path)
    before = cfg.pretty_text
    runner = build_runner(cfg, [])
    replace_unreadable(runner)

    def wrapped(loader: dict) -> int:
        built = runner.build_dataloader(loader)
        inner = getattr(built.dataset, "dataset", built.dataset)
        steps = inner.pipeline.transforms
        return sum(isinstance(step, ReplaceUnreadable) for step in steps)

    assert (wrapped(cfg.train_dataloader), wrapped(cfg.test_dataloader)) == (1, 0)
    assert cfg.pretty_text == before
