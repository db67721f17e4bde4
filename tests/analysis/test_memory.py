"""Memory of a training step, followed tensor by tensor."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from focal_mm.analysis import memory
from tools import estimate_memory

DET = Path(__file__).parents[2] / "configs" / "det"
MIB = 2**20


@pytest.fixture
def small() -> Config:
    """RetinaNet with few channels."""
    cfg = Config.fromfile(DET / "retinanet_focal_tiny_1x.py")
    arch = dict(
        _delete_=True, embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)
    )
    cfg.merge_from_dict(
        {
            "model.backbone.arch": arch,
            "model.neck.in_channels": [64, 128, 256],
            "model.neck.out_channels": 32,
            "model.bbox_head.in_channels": 32,
            "model.bbox_head.feat_channels": 32,
            "model.bbox_head.num_classes": 4,
        }
    )
    return cfg


def test_the_peak_is_what_lives_at_one_time():
    before = torch.ones(MIB // 4)
    with memory._Allocations() as allocations:
        allocations.ignore(before)
        first = before + 1  # 1 MiB
        assert allocations.peak == MIB
        second = torch.cat((first, first))  # 3 MiB
        assert allocations.peak == 3 * MIB
        second.view(2, -1).add_(1)  # views and in-place: nothing new
        del first, second
        third = before.double()  # 2 MiB, less than before
        assert allocations.peak == 3 * MIB
        third = torch.cat((third, third))  # 2 + 4 MiB
        assert allocations.peak == 6 * MIB


def test_what_is_saved_for_the_backward_pass_lives():
    weight = torch.ones(MIB // 4, requires_grad=True)
    with memory._Allocations() as allocations:
        allocations.ignore(weight)
        value = weight
        for _ in range(3):
            value = value.exp()  # keeps its result
        assert allocations.peak == 3 * MIB


def test_a_line_through_two_small_sizes_reaches_a_large_one(small):
    init_default_scope("mmdet")
    found = memory.estimate_training_memory(small, (448, 896), images=1)
    assert (found.height, found.width, found.images, found.amp) == (448, 896, 1, False)
    model = MODELS.build(small.model).train()
    assert found.passes == pytest.approx(
        memory._peak(model, 1, (448, 896), amp=False), rel=0.02
    )
    parameters = sum(p.numel() for p in model.parameters())
    # Weights, AdamW's two moments, gradients in exchange: 4 bytes each.
    assert found.state == 16 * parameters


def test_what_costs_less_costs_less(small):
    shape = (448, 896)
    plain = memory.estimate_training_memory(small, shape)
    half = memory.estimate_training_memory(small, shape, amp=True)
    assert 0.4 < half.passes / plain.passes < 0.8
    # Targets are assigned image by image: what that takes does not double.
    single = memory.estimate_training_memory(small, shape, images=1)
    assert 0.5 < single.passes / plain.passes < 0.8
    small.model.backbone.with_cp = True
    recomputed = memory.estimate_training_memory(small, shape)
    assert recomputed.passes < 0.8 * plain.passes


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ("mask_rcnn_focal_tiny_1x", (800, 1333)),
        ("mask_rcnn_focal_tiny_3x", (800, 1333)),
        ("htc_plusplus_focal_large_3x", (1400, 1600)),
        ("atss_dyhead_focal_large_2x", (1200, 2000)),
    ],
)
def test_largest_training_image(row, shape):
    assert memory.largest_shape(Config.fromfile(DET / f"{row}.py")) == shape


def test_configs_that_do_not_do():
    cfg = Config(dict(default_scope="mmseg"))
    with pytest.raises(ValueError, match="must be 'mmdet', got 'mmseg'"):
        memory.estimate_training_memory(cfg)
    wrapper = dict(optimizer=dict(type="LBFGS"))
    cfg = Config(dict(default_scope="mmdet", optim_wrapper=wrapper))
    with pytest.raises(ValueError, match="got LBFGS"):
        memory.estimate_training_memory(cfg)
    with pytest.raises(ValueError, match="no Resize"):
        memory.largest_shape(Config(dict(train_dataloader=dict(dataset=dict()))))


def test_command_line(small, tmp_path, capsys):
    small.dump(tmp_path / "small.py")
    arguments = [str(tmp_path / "small.py"), "--shape", "448", "896", "--batch-size"]
    assert estimate_memory.main([*arguments, "1"]) == 0
    out = capsys.readouterr().out
    assert "small: 0." in out
    assert "1 images of 448x896 in float32" in out
    assert estimate_memory.main([str(tmp_path / "gone.py")]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "gone.py" in err
