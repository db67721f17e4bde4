"""Who is compared."""

import pytest
import torch

from benchmarks import models
from focal_mm.engine import UserError

ARCH = models.parse_arch_option("8:1,1,1,1:1,2,2,4")
SHAPE = (70, 97)


def test_all_backends_have_the_same_weights():
    contestants, absent = models.focal_contestants(ARCH, None, None)
    names = {c.backend for c in contestants} | {a.name[7:-1] for a in absent}
    assert names == {item.name for item in models.backend_support()}
    states = [c.build(SHAPE).state_dict() for c in contestants]
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
    (contestant,), _ = models.focal_contestants(ARCH, None, ["sdpa"])
    attention = contestant.build(shape).stages[0].blocks[0].attn
    regions = models.SETTINGS[expected]["focal_windows"]
    assert attention.geometry.focal_window == regions[0]


def test_unavailable_backend_is_named(monkeypatch):
    support = [models.backend_support()[0]._replace(name="x", ok=False, reason="why")]
    monkeypatch.setattr(models, "backend_support", lambda: support)
    assert models.focal_contestants(ARCH, None, None) == (
        [],
        [models.Absent("Focal (x)", "why")],
    )
    with pytest.raises(UserError, match="'x' cannot run: why"):
        models.focal_contestants(ARCH, None, ["x"])


def test_library_that_cannot_be_imported(monkeypatch):
    def fail(arch):
        raise AssertionError("MMCV==3 is\nincompatible")

    monkeypatch.setattr(models, "SWINS", {"mmdet": fail})
    reason = "mmdet cannot be imported: AssertionError: MMCV==3 is incompatible"
    assert models.swin_contestants(ARCH, None) == (
        [],
        [models.Absent("Swin (mmdet)", reason)],
    )
    with pytest.raises(UserError, match="MMCV==3"):
        models.swin_contestants(ARCH, ["mmdet"])


@pytest.mark.slow
@pytest.mark.parametrize("library", models.SWINS)
def test_swin_gives_maps_like_ours(library):
    pytest.importorskip(library)
    (swin,), _ = models.swin_contestants(ARCH, [library])
    (ours,), _ = models.focal_contestants(ARCH, None, ["sdpa"])
    image = torch.randn(1, 3, *SHAPE)
    with torch.no_grad():
        maps, expected = (c.build(SHAPE)(image) for c in (swin, ours))
    assert [m.shape for m in maps] == [m.shape for m in expected]
