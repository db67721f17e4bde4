"""Who is compared."""

import pytest
import torch

from benchmarks import models
from focal_mm.models.presets import ARCHS, Arch

SHAPE = (70, 97)


@pytest.mark.parametrize("selection", models.KEY_SELECTIONS)
def test_all_backends_have_the_same_weights(selection):
    found = models.focal_candidates("toy", None, selection)
    assert {"sdpa", "naive"} <= {candidate.label for candidate in found}
    states = [candidate.build(SHAPE).state_dict() for candidate in found]
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=0, atol=0)
    # Zeros would hide a term that is left out.
    assert all(tensor.abs().max() > 0 for tensor in states[0].values())


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((224, 224), "imagenet"), ((896, 896), "imagenet"), ((800, 1333), "detection")],
)
def test_settings_by_size(shape, expected):
    assert models.settings_for(shape) == expected
    (candidate,) = models.focal_candidates("toy", None, "window", ["sdpa"])
    attention = candidate.build(shape).stages[0].blocks[0].attn
    regions = models.SETTINGS[expected]["focal_windows"]
    assert attention.geometry.focal_window == regions[0]


def test_backends_that_cannot_run_are_left_out(monkeypatch):
    first = models.backend_support()[0]._replace(name="x", ok=False, reason="why")
    second = first._replace(name="y", ok=True)
    monkeypatch.setattr(models, "backend_support", lambda: [first, second])
    assert models.usable_backends("window") == ["y"]
    assert models.usable_backends("topk") == []


@pytest.mark.slow
@pytest.mark.parametrize("library", models.SWINS)
def test_swin_gives_maps_like_ours(monkeypatch, library):
    pytest.importorskip(library)
    monkeypatch.setitem(ARCHS, "toy", Arch(8, (1, 1, 1, 1), (1, 2, 2, 4)))
    swin = models.swin_candidate(library, "toy")
    (ours,) = models.focal_candidates("toy", None, "window", ["sdpa"])
    image = torch.randn(1, 3, *SHAPE)
    with torch.no_grad():
        maps, expected = (c.build(SHAPE)(image) for c in (swin, ours))
    assert [m.shape for m in maps] == [m.shape for m in expected]
