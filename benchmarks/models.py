"""What is compared: Focal Transformers with each attention backend, and Swins."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from focal_mm import FocalTransformer
from focal_mm.engine.config import describe
from focal_mm.engine.errors import UserError
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


@dataclass(frozen=True)
class Candidate:
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


def choose_backends(
    key_selection: str, names: Sequence[str] | None
) -> tuple[list[str], dict[str, str]]:
    """The backends of a key selection to measure, and why others are skipped.

    Args:
        key_selection: Key of :data:`KEY_SELECTIONS`.
        names: Those asked for, 'auto' among them; None for all that can run here.

    Returns:
        Their names, and by a table's name of the model the reasons.

    Raises:
        UserError: If there is no backend of a name with any key selection.
    """
    support = backend_support()
    known = dict.fromkeys(["auto", *(item.name for item in support)])
    for name in names or ():
        if name not in known:
            raise UserError(f"there is no backend {name!r}: choose from {list(known)}")
    reasons = {s.name: s.reason for s in support if s.key_selection == key_selection}
    wanted = list(reasons) if names is None else list(dict.fromkeys(names))
    reasons["auto"] = ""
    family = KEY_SELECTIONS[key_selection]
    skipped = {}
    for name in wanted:
        reason = reasons.get(name, f"{family} has no such backend")
        if reason:
            skipped[f"{family} ({name})"] = reason
    return [name for name in wanted if reasons.get(name) == ""], skipped


def focal_candidates(
    arch: str,
    settings: str | None,
    key_selections: Sequence[str],
    backends: Sequence[str] | None,
) -> tuple[list[Candidate], dict[str, str]]:
    """One for each key selection and attention backend, and why others are skipped.

    Arguments as :func:`build_focal` and :func:`choose_backends` take them.
    """
    found, skipped = [], {}
    for selection in dict.fromkeys(key_selections):
        names, reasons = choose_backends(selection, backends)
        skipped |= reasons
        build = functools.partial(
            build_focal, arch=arch, settings=settings, key_selection=selection
        )
        # Recomputing activations takes memory down, and changes nothing.
        reference = functools.partial(build, backend=REFERENCE, with_cp=True)
        for name in names:
            own = functools.partial(build, backend=name)
            title = f"{KEY_SELECTIONS[selection]} ({name})"
            found.append(Candidate(title, name, own, selection, reference))
    return found, skipped


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


def swin_candidates(
    arch: str, libraries: Sequence[str]
) -> tuple[list[Candidate], dict[str, str]]:
    """The Swin Transformer of each library, of the same size.

    Args:
        arch: Key of :data:`~focal_mm.models.presets.ARCHS`.
        libraries: Keys of :data:`SWINS`.

    Returns:
        The models, and by name why others are skipped.
    """
    found, skipped = [], {}
    for library in libraries:
        name = f"Swin ({library})"
        try:
            importlib.import_module(library)
        except Exception as error:
            # Libraries check each other's versions in many ways.
            skipped[name] = f"{library} cannot be imported: {describe(error)}"
        else:
            build = functools.partial(_seeded, SWINS[library], arch=arch)
            found.append(Candidate(name, library, build))
    return found, skipped
