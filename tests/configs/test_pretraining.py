"""What a row's backbone starts from is what another row of the suite trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

import focal_mm  # noqa: F401
from focal_mm.checkpoint.state import DROPPED, INITIALISED, MISSING, fit_state_dict
from focal_mm.models.presets import parse_arch

CONFIGS = Path(__file__).parents[2] / "configs"
PATHS = [path for path in CONFIGS.rglob("*.py") if "_base_" not in path.parts]
CLASSIFIERS = {path.stem: path for path in PATHS if "cls" in path.parts}
FROM_SCRATCH = ("_in1k_224", "_in22k_224", "_lmdb_224")
ROWS = sorted(
    path
    for path in PATHS
    if "focal" in path.stem
    and (not path.stem.endswith(FROM_SCRATCH) or "_to_" in path.stem)
)


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_checkpoint_of_pretraining_loads(path):
    """Nothing is missing but what a classifier of small images does not have."""
    config = Config.fromfile(path)
    pretraining = Config.fromfile(CLASSIFIERS[config.pretraining])
    backbones = [pretraining.model.backbone, config.model.backbone]
    source, target = archs = [parse_arch(backbone.arch) for backbone in backbones]
    assert source == target
    models = [
        # One block a stage: an eighth of the weights, and all of their kinds.
        MODELS.build(dict(backbone, arch=arch._replace(depths=(1,) * 4)._asdict()))
        for backbone, arch in zip(backbones, archs, strict=True)
    ]
    _, report = fit_state_dict(models[0].state_dict(), models[1])
    assert not report[DROPPED]
    assert all(name.startswith("norm") for name in report[MISSING])
    # Where the map is one window, there are no neighbours.
    for name in report[INITIALISED]:
        assert name.startswith(("stages.2.", "stages.3."))
        assert name.endswith("_to_neighbors")
