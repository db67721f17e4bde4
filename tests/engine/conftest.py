"""A command line of a minimal config, and what it makes of it."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from mmengine.config import Config

from focal_mm.engine.config import load_config

MINIMAL = """
model = dict(type="Model", backbone=dict(type="Backbone"))
default_scope = "{scope}"
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=1.0))
auto_scale_lr = dict(enable=False, base_batch_size=16)
default_hooks = dict(visualization=dict(type="VisualizationHook"))
visualizer = dict(type="Visualizer")
pipeline = [dict(type="LoadImageFromFile"), dict(type="Pack")]
test_dataloader = dict(
    dataset=dict(type="Repeat", dataset=dict(type="Data", pipeline=pipeline))
)
test_evaluator = dict(type="Metric")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no rank of a launcher around this test."""
    monkeypatch.chdir(tmp_path)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def adapted(folder: Path) -> Callable[..., tuple[Config, list[str] | None]]:
    """Config that train.py or test.py makes of its arguments; notes of train.py."""

    def adapt(
        program: ModuleType, *arguments: str, scope: str = "mmdet"
    ) -> tuple[Config, list[str] | None]:
        (folder / "minimal.py").write_text(MINIMAL.format(scope=scope))
        args = program._parser().parse_args(["minimal.py", *arguments])
        cfg = load_config(args.config, args.cfg_options)
        return cfg, program._adapt(cfg, args)

    return adapt
