"""Who is compared."""

import pytest
import torch

from benchmarks import models
from focal_mm.engine.errors import UserError
from focal_mm.models.presets import ARCHS, Arch

SHAPE = (70, 97)


@pytest.mark.parametrize("selection", models.KEY_SELECTIONS)
def test_all_backends_have_the_same_weights(selection):
    found, skipped = models.focal_candidates("toy", None, [selection], None)
    known = [s for s in models.backend_support() if s.key_selection == selection]
    assert len(found) + len(skipped) == len(known)
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
    (candidate,), _ = models.focal_candidates("toy", None, ["window"], ["sdpa"])
    attention = candidate.build(shape).stages[0].blocks[0].attn
    regions = models.SETTINGS[expected]["focal_windows"]
    assert attention.geometry.focal_window == regions[0]


def test_backends_that_are_skipped(monkeypatch):
    """Those that cannot run, and those of the other key selection only."""
    first = models.backend_support()[0]._replace(name="x", ok=False, reason="why")
    monkeypatch.setattr(models, "backend_support", lambda: [first])
    assert models.focal_candidates("toy", None, ["window"], None) == (
        [],
        {"Focal (x)": "why"},
    )
    found, skipped = models.focal_candidates("toy", None, ["topk"], ["x", "auto"])
    assert [candidate.name for candidate in found] == ["Focal-fast (auto)"]
    assert skipped == {"Focal-fast (x)": "Focal-fast has no such backend"}
    with pytest.raises(UserError, match="there is no backend 'sdap': choose from"):
        models.focal_candidates("toy", None, ["topk"], ["sdap"])


def test_library_that_cannot_be_imported(monkeypatch):
    def fail(library):
        raise AssertionError("MMCV==3 is\nincompatible")

    monkeypatch.setattr(models.importlib, "import_module", fail)
    reason = "mmdet cannot be imported: AssertionError: MMCV==3 is incompatible"
    assert models.swin_candidates("toy", ["mmdet"]) == ([], {"Swin (mmdet)": reason})


@pytest.mark.slow
@pytest.mark.parametrize("library", models.SWINS)
def test_swin_gives_maps_like_ours(monkeypatch, library):
    pytest.importorskip(library)
    monkeypatch.setitem(ARCHS, "toy", Arch(8, (1, 1, 1, 1), (1, 2, 2, 4)))
    (swin,), _ = models.swin_candidates("toy", [library])
    (ours,), _ = models.focal_candidates("toy", None, ["window"], ["sdpa"])
    image = torch.randn(1, 3, *SHAPE)
    with torch.no_grad():
        maps, expected = (c.build(SHAPE)(image) for c in (swin, ours))
    assert [m.shape for m in maps] == [m.shape for m in expected]
