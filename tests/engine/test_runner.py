"""What a Runner loads and saves: by the rule, and whole."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.model import BaseModel
from torch import Tensor, nn

from focal_mm.checkpoint import CheckpointError
from focal_mm.engine.errors import LostError, UserError
from focal_mm.engine.runner import Runner


class Model(BaseModel):
    """A layer without a task."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.head = nn.Linear(4, outputs)

    def forward(self, *inputs: Tensor, mode: str = "tensor") -> dict[str, Tensor]:
        return dict(loss=self.head(self.norm(self.layer(torch.stack(inputs)))).sum())


@pytest.fixture
def runner(tmp_path: Path) -> Callable[..., Runner]:
    """Makes a Runner of three iterations, with changes to its config."""

    def make(
        outputs: int = 2, allow_partial: bool = False, **changes: object
    ) -> Runner:
        cfg = dict(
            work_dir=str(tmp_path),
            experiment_name=f"runner_{len(list(tmp_path.iterdir()))}",
            train_dataloader=dict(
                dataset=[torch.randn(3) for _ in range(12)],
                sampler=dict(type="DefaultSampler", shuffle=False),
                batch_size=4,
                num_workers=0,
                collate_fn=dict(type="pseudo_collate"),
            ),
            train_cfg=dict(by_epoch=False, max_iters=3),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3)),
            param_scheduler=dict(type="LinearLR", end=3, by_epoch=False),
            default_hooks=dict(
                checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=3)
            ),
            default_scope="mmengine",
        )
        cfg |= changes
        whole = Config(dict(cfg, allow_partial=allow_partial))
        return Runner(model=Model(outputs), cfg=whole, **cfg)

    return make


@pytest.fixture
def trained(runner, tmp_path) -> Path:
    """A checkpoint of a run, where another one was killed while it wrote."""
    (tmp_path / ".iter_3.77.partial.pth").touch()
    runner().train()
    return tmp_path / "iter_3.pth"


def test_resumed_from_what_was_saved(runner, trained, tmp_path):
    assert [path.name for path in tmp_path.glob("*.pth")] == ["iter_3.pth"]
    resumed = runner(load_from=str(trained), resume=True)
    resumed.train()
    assert resumed.iter == 3
    saved = torch.load(trained, weights_only=False)["state_dict"]
    for name, value in resumed.model.state_dict().items():
        assert value.equal(saved[name])


def test_what_does_not_fit_is_refused(runner, trained, tmp_path):
    with pytest.raises(CheckpointError, match=r"head.weight is \(2, 4\) in the file"):
        runner(outputs=5, load_from=str(trained)).train()
    other = runner(outputs=5, load_from=str(trained), allow_partial=True)
    other.load_or_resume()
    saved = torch.load(trained, weights_only=False)["state_dict"]
    assert other.model.layer.weight.equal(saved["layer.weight"])

    # The state of an optimizer would not fit either.
    with pytest.raises(CheckpointError, match=r"head.weight is"):
        runner(
            outputs=5, load_from=str(trained), resume=True, allow_partial=True
        ).train()
    weights = tmp_path / "weights.pth"
    torch.save(saved, weights)
    with pytest.raises(CheckpointError, match="holds no meta, message_hub, optim"):
        runner(load_from=str(weights), resume=True).train()


def test_averages_go_on(runner, tmp_path):
    """What MMEngine's hook keeps beside the weights."""
    hooks = [dict(type="EMAHook")]
    first = runner(custom_hooks=hooks)
    first.train()
    path = str(tmp_path / "iter_3.pth")
    resumed = runner(custom_hooks=hooks, load_from=path, resume=True)
    resumed.train()
    for name, value in resumed.model.state_dict().items():
        assert value.equal(first.model.state_dict()[name])

    def average(of: Runner) -> nn.Module:
        return next(h.ema_model.module for h in of.hooks if hasattr(h, "ema_model"))

    wrapped = str(tmp_path / "wrapped.pth")
    state = torch.load(path, weights_only=False)["state_dict"]
    torch.save({f"model.{name}": value for name, value in state.items()}, wrapped)
    for file in (path, wrapped):
        tested = runner(custom_hooks=hooks, load_from=file)
        tested.call_hook("before_run")
        tested.load_or_resume()
        for model in (tested.model, average(tested)):
            assert model.layer.weight.equal(average(first).layer.weight)


def test_full_disk_leaves_the_last_checkpoint(runner, trained, tmp_path, monkeypatch):
    before = trained.read_bytes()

    def fill(self: LocalBackend, data: bytes, path: str) -> None:
        Path(path).write_bytes(data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LocalBackend, "put", fill)
    with pytest.raises(UserError, match=r"iter_3\.pth cannot be written: .*No space"):
        runner().train()
    assert trained.read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.pth")] == ["iter_3.pth"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("[gloo/tcp/pair.cc:1] Connection closed by peer [x]\nmore", LostError),
        ("[gloo/tcp/pair.cc:1] Read error [x]: Connection reset by peer", LostError),
        ("mat1 and mat2 shapes cannot be multiplied", RuntimeError),
    ],
)
def test_lost_connections(runner, monkeypatch, message, expected):
    def fail(self: Model, *args: object, **kwargs: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(Model, "train_step", fail)
    with pytest.raises(expected, match=re.escape(message.splitlines()[0])) as caught:
        runner().train()
    assert type(caught.value) is expected
