"""The libraries' own inference, by the paths of config and checkpoint.

The checkpoints are a runner's: beside weights they hold its log and its optimizer,
which PyTorch reads only when it trusts the file or is told what to expect.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import focal_mm
from focal_mm.checkpoint import CheckpointError
from focal_mm.engine import UserError


@pytest.fixture
def pictures(toy_model):
    return lambda scope: sorted(map(str, toy_model(scope).images.iterdir()))


def test_init_and_inference_detector(toy_model, pictures):
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    toy, paths = toy_model("mmdet"), pictures("mmdet")
    model = init_detector(str(toy.config), str(toy.checkpoint), device="cpu")
    assert tuple(model.dataset_meta["classes"]) == toy.classes
    sample = inference_detector(model, paths[0])
    instances = sample.pred_instances
    assert len(instances) > 0
    assert instances.masks.shape == (len(instances), 64, 96)

    inferencer = DetInferencer(str(toy.config), str(toy.checkpoint), device="cpu")
    (same, _) = inferencer(paths, no_save_vis=True)["predictions"]
    assert same["scores"] == instances.scores.tolist()
    assert same["bboxes"] == instances.bboxes.tolist()


def test_segmentation(toy_model, pictures):
    from mmseg.apis import MMSegInferencer, inference_model, init_model

    toy, paths = toy_model("mmseg"), pictures("mmseg")
    inferencer = MMSegInferencer(str(toy.config), str(toy.checkpoint), device="cpu")
    assert inferencer.model.dataset_meta["classes"] == toy.classes
    batch = inferencer(paths, batch_size=2, return_vis=True)
    assert [drawn.shape for drawn in batch["visualization"]] == [(64, 96, 3)] * 2
    model = init_model(str(toy.config), str(toy.checkpoint), device="cpu")
    for path, labels in zip(paths, batch["predictions"], strict=True):
        assert labels.shape == (64, 96)
        assert set(np.unique(labels)) <= set(range(len(toy.classes)))
        sample = inference_model(model, path)
        np.testing.assert_array_equal(sample.pred_sem_seg.data[0], labels)


def test_classification(toy_model, pictures, tmp_path):
    from mmpretrain import ImageClassificationInferencer, get_model

    toy, paths = toy_model("mmpretrain"), pictures("mmpretrain")
    # Unlike the others, mmpretrain's inferencer takes the scope that is set.
    init_default_scope("mmpretrain")
    inferencer = ImageClassificationInferencer(
        str(toy.config), pretrained=str(toy.checkpoint), device="cpu"
    )
    results = inferencer(paths, show_dir=str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"0.png", "1.png"}
    model = get_model(str(toy.config), str(toy.checkpoint))
    for path, result in zip(paths, results, strict=True):
        assert result["pred_class"] == toy.classes[result["pred_label"]]
        assert result["pred_scores"].sum() == pytest.approx(1)
        (data,) = inferencer.preprocess([path])
        with torch.no_grad():
            scores = model.test_step(data)[0].pred_score
        np.testing.assert_array_equal(scores, result["pred_scores"])


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain"])
def test_weights_are_the_checkpoints(toy_model, scope):
    """Not those of a random start, which an inferencer would pass over in silence."""
    toy = toy_model(scope)
    init_default_scope(scope)
    if scope == "mmdet":
        from mmdet.apis import DetInferencer as Inferencer
    elif scope == "mmseg":
        from mmseg.apis import MMSegInferencer as Inferencer
    else:
        from mmpretrain import ImageClassificationInferencer as Inferencer
    # By the config as an object too: custom_imports has registered the backbone.
    model = Inferencer(
        Config.fromfile(toy.config), str(toy.checkpoint), device="cpu"
    ).model
    stored = torch.load(toy.checkpoint, weights_only=False)["state_dict"]
    loaded = model.state_dict()
    assert set(stored) == set(loaded)
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)


LOADERS = dict(
    mmdet=focal_mm.load_detector,
    mmseg=focal_mm.load_segmentor,
    mmpretrain=focal_mm.load_classifier,
)


@pytest.mark.parametrize("scope", LOADERS)
def test_our_loaders_give_the_libraries_inferencers(toy_model, pictures, scope):
    toy = toy_model(scope)
    # Whatever another library has left.
    init_default_scope("mmengine")
    inferencer = LOADERS[scope](toy.config, str(toy.checkpoint), device="cpu")
    assert type(inferencer).__module__.startswith(scope)
    stored = torch.load(toy.checkpoint, weights_only=False)["state_dict"]
    loaded = inferencer.model.state_dict()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    results = inferencer(pictures(scope))
    assert len(results if scope == "mmpretrain" else results["predictions"]) == 2


class Executes:
    """Pickled as a call."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("scope", LOADERS)
def test_our_loaders_execute_nothing_and_leave_nothing_random(
    toy_model, tmp_path, scope
):
    toy, path = toy_model(scope), tmp_path / "x.pth"
    state = torch.load(toy.checkpoint, weights_only=False)["state_dict"]
    load = partial(LOADERS[scope], toy.config, str(path), device="cpu")
    torch.save(dict(state_dict=state, meta=Executes(tmp_path / "trace")), path)
    with pytest.raises(CheckpointError, match="not a file of plain weights"):
        load()
    assert not (tmp_path / "trace").exists()

    name = next(reversed([n for n in state if n.endswith("weight")]))
    torch.save({k: v for k, v in state.items() if k != name}, path)
    with pytest.raises(CheckpointError, match=f"the first is {name}: needed is"):
        load()
    assert load(allow_partial=True).model is not None


def test_our_loaders_are_for_their_libraries(toy_model):
    toy = toy_model("mmseg")
    with pytest.raises(UserError, match="a config of mmseg"):
        focal_mm.load_detector(toy.config, str(toy.checkpoint))
    with pytest.raises(UserError, match="no config file https"):
        focal_mm.load_detector("https://example.org/x.py", "x.pth")
