"""What is compared: Focal Transformers with each attention backend, and Swins."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from focal_mm import FocalTransformer
from focal_mm.models.presets import ARCHS
from focal_mm.ops import backend_support

Shape = tuple[int, int]
Build = Callable[[Shape], nn.Module]

REFERENCE = "naive"
WINDOW = 7
SETTINGS = {
    "imagenet": dict(focal_windows=(7, 5, 3, 1), expand_sizes=(3, 3, 3, 0)),
    "detection": dict(focal_windows=(15, 13, 9, 7), expand_sizes=(3, 3, 3, 3)),
}
"""The paper's focal regions and expansions, of the four stages."""
KEY_SELECTIONS = {"window": "Focal", "topk": "Focal-fast"}
"""The backbone's key selections, and what tables call such models."""


class Candidate(NamedTuple):
    """A model to be measured.

    Attributes:
        name: What tables call it.
        label: Its attention backend, or the library of a Swin.
        build: Makes it for an image of (height, width), in float32 on the CPU.
        key_selection: Of a Focal Transformer; empty for a Swin.
        reference: Makes the same model with the reference's backend; None for a Swin.
    """

    name: str
    label: str
    build: Build
    key_selection: str = ""
    reference: Build | None = None


def settings_for(shape: Shape) -> str:
    """The key of :data:`SETTINGS` that is compared at a size.

    Squares take the classifier's, as the authors' own table of throughput at 224, 448
    and 896 pixels does; other sizes are those of detection.
    """
    return "imagenet" if shape[0] == shape[1] else "detection"


def build_focal(
    shape: Shape,
    arch: str,
    settings: str | None,
    backend: str,
    key_selection: str = "window",
    with_cp: bool = False,
) -> nn.Module:
    """A Focal Transformer without stochastic depth, its weights the same each time.

    Args:
        shape: (height, width) of the image that it will see.
        arch: Key of :data:`~focal_mm.models.presets.ARCHS`.
        settings: Key of :data:`SETTINGS`, None for that of :func:`settings_for`;
            Focal-fast has no such regions.
        backend: Attention backend.
        key_selection: As the backbone's.
        with_cp: As the backbone's.
    """
    stages = len(ARCHS[arch].depths)
    regions = {}
    if key_selection == "window":
        regions = SETTINGS[settings or settings_for(shape)]
    return _seeded(
        FocalTransformer,
        arch=arch,
        attn_backend=backend,
        key_selection=key_selection,
        with_cp=with_cp,
        drop_path_rate=0.0,
        out_indices=tuple(range(stages)),
        **{key: value[:stages] for key, value in regions.items()},
    )


def _seeded(build: Callable[..., nn.Module], *args: Any, **options: Any) -> nn.Module:
    """Build a model, its weights the same each time and none of them zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(*args, **options)
        with torch.no_grad():
            # Those at zero would hide where they are left out.
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def usable_backends(key_selection: str) -> list[str]:
    """The backends of a key selection that can run on this machine."""
    return [
        item.name
        for item in backend_support()
        if item.key_selection == key_selection and item.ok
    ]


def focal_candidates(
    arch: str,
    settings: str | None,
    key_selection: str,
    backends: Sequence[str] | None = None,
) -> list[Candidate]:
    """A Focal Transformer with each backend.

    Arguments are those of :func:`build_focal`; backends are :func:`usable_backends`
    unless there are others.
    """
    build = functools.partial(
        build_focal, arch=arch, settings=settings, key_selection=key_selection
    )
    # Recomputing activations takes memory down, and changes nothing.
    reference = functools.partial(build, backend=REFERENCE, with_cp=True)
    return [
        Candidate(
            f"{KEY_SELECTIONS[key_selection]} ({name})",
            name,
            functools.partial(build, backend=name),
            key_selection,
            reference,
        )
        for name in backends or usable_backends(key_selection)
    ]


def _mmdet_swin(shape: Shape, arch: str) -> nn.Module:
    swin = importlib.import_module("mmdet.models.backbones.swin")
    sizes = ARCHS[arch]
    stages = len(sizes.depths)
    return swin.SwinTransformer(
        **sizes._asdict(),
        strides=(4, *(2,) * (stages - 1)),
        out_indices=tuple(range(stages)),
        window_size=WINDOW,
        drop_path_rate=0.0,
    )


class TimmSwin(nn.Module):
    """timm's Swin Transformer as a backbone: each stage's map, normed, channels first.

    Args:
        shape: (height, width) of the image.
        arch: Its size.
    """

    PATCH = 4

    def __init__(self, shape: Shape, arch: str) -> None:
        super().__init__()
        timm = importlib.import_module("timm")
        sizes = ARCHS[arch]
        stages = len(sizes.depths)
        self.features = timm.create_model(
            "swin_tiny_patch4_window7_224",
            pretrained=False,
            features_only=True,
            img_size=tuple(-(-side // self.PATCH) * self.PATCH for side in shape),
            embed_dim=sizes.embed_dims,
            depths=sizes.depths,
            num_heads=sizes.num_heads,
            drop_path_rate=0.0,
            out_indices=tuple(range(stages)),
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(sizes.embed_dims * 2**stage) for stage in range(stages)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`focal_mm.FocalTransformer.forward`."""
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % self.PATCH, 0, -height % self.PATCH))
        return tuple(
            norm(tokens).permute(0, 3, 1, 2).contiguous()
            for norm, tokens in zip(self.norms, self.features(image), strict=True)
        )


SWINS: dict[str, Callable[[Shape, str], nn.Module]] = {
    "mmdet": _mmdet_swin,
    "timm": TimmSwin,
}
"""Libraries that have a Swin Transformer, and how theirs is made."""


def swin_candidate(library: str, arch: str) -> Candidate:
    """The Swin Transformer of a key of :data:`SWINS`, of the same size.

    Raises:
        Exception: Whatever the library raises where it cannot be imported.
    """
    importlib.import_module(library)
    build = functools.partial(_seeded, SWINS[library], arch=arch)
    return Candidate(f"Swin ({library})", library, build)
