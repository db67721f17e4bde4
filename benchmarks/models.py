"""Who is compared: Focal Transformers with each attention backend, and Swin's."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from focal_mm import FocalTransformer
from focal_mm.engine.errors import UserError
from focal_mm.models.presets import Arch, parse_arch
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


@dataclass(frozen=True)
class Contestant:
    """A model to be measured.

    Attributes:
        name: What tables call it.
        family: 'focal' or 'swin'.
        backend: Attention backend of a 'focal' one; else empty.
        build: Makes it for an image of (height, width), in float32 on the CPU.
    """

    name: str
    family: str
    backend: str
    build: Build


@dataclass(frozen=True)
class Absent:
    """A model or backend that cannot take part here, and why."""

    name: str
    reason: str


def settings_for(shape: Shape) -> str:
    """The key of :data:`SETTINGS` that is compared at a size.

    Squares take the classifier's, as the authors' own table of throughput at 224, 448
    and 896 pixels does; other sizes are those of detection.
    """
    return "imagenet" if shape[0] == shape[1] else "detection"


def parse_size(text: str) -> Shape:
    """Read '448' or '800x1333' as (height, width).

    Raises:
        ValueError: If it is neither, or a side is not positive.
    """
    sides = [int(side) for side in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError(f"{text!r} is not a size such as 448 or 800x1333")
    return (sides[0], sides[-1])


def parse_arch_option(text: str) -> Arch:
    """Read a preset's name or 'EMBED_DIMS:DEPTHS:NUM_HEADS', as '96:2,2,6,2:3,6,12,24'.

    Raises:
        UserError: If it is neither, or the sizes do not fit together.
    """
    try:
        if ":" not in text:
            return parse_arch(text)
        dims, depths, heads = text.split(":")
        numbers = [[int(n) for n in part.split(",")] for part in (depths, heads)]
        arch = parse_arch(
            dict(embed_dims=int(dims), depths=numbers[0], num_heads=numbers[1])
        )
    except ValueError as error:
        raise UserError(
            f"--arch {text}: {error} (a preset or EMBED_DIMS:DEPTHS:NUM_HEADS)"
        ) from None
    if len(arch.depths) > len(SETTINGS["imagenet"]["focal_windows"]):
        raise UserError(f"--arch {text}: more than four stages")
    return arch


def build_focal(arch: Arch, settings: str, backend: str, **options: bool) -> nn.Module:
    """A Focal Transformer without stochastic depth, its weights the same each time.

    Args:
        arch: Its size.
        settings: Key of :data:`SETTINGS`.
        backend: Attention backend.
        **options: Further arguments of the backbone (``with_cp``).
    """
    stages = len(arch.depths)
    regions = {key: value[:stages] for key, value in SETTINGS[settings].items()}
    return _seeded(
        lambda: FocalTransformer(
            arch=arch._asdict(),
            attn_backend=backend,
            drop_path_rate=0.0,
            out_indices=tuple(range(stages)),
            **regions,
            **options,
        )
    )


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        with torch.no_grad():
            # Some start at zero, and would hide where they are left out.
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def focal_contestants(
    arch: Arch, settings: str | None, backends: Sequence[str] | None
) -> tuple[list[Contestant], list[Absent]]:
    """One for each attention backend.

    Args:
        arch: Size of the models.
        settings: Key of :data:`SETTINGS`; None for the one of :func:`settings_for`.
        backends: Names, 'auto' among them; None for all that can run here.

    Raises:
        UserError: If a named backend is unknown or cannot run here.
    """
    support = {item.name: item for item in backend_support()}
    for name in backends or ():
        if name != "auto" and name not in support:
            raise UserError(
                f"there is no backend {name!r}: choose from {['auto', *support]}"
            )
        if name != "auto" and not support[name].ok:
            raise UserError(f"backend {name!r} cannot run: {support[name].reason}")
    absent = []
    if backends is None:
        backends = [name for name, item in support.items() if item.ok]
        absent = [
            Absent(f"Focal ({name})", item.reason)
            for name, item in support.items()
            if not item.ok
        ]

    def builder(backend: str) -> Build:
        return lambda shape: build_focal(arch, settings or settings_for(shape), backend)

    return [
        Contestant(f"Focal ({name})", "focal", name, builder(name))
        for name in dict.fromkeys(backends)
    ], absent


def _mmdet_swin(arch: Arch) -> Build:
    module = importlib.import_module("mmdet.models.backbones.swin")
    stages = len(arch.depths)
    return lambda shape: _seeded(
        lambda: module.SwinTransformer(
            embed_dims=arch.embed_dims,
            depths=arch.depths,
            num_heads=arch.num_heads,
            strides=(4, *(2,) * (stages - 1)),
            out_indices=tuple(range(stages)),
            window_size=WINDOW,
            drop_path_rate=0.0,
        )
    )


class TimmSwin(nn.Module):
    """timm's Swin Transformer as a backbone: each stage's map, normed, channels first.

    Args:
        shape: (height, width) of the image.
        arch: Its size.
    """

    PATCH = 4

    def __init__(self, shape: Shape, arch: Arch) -> None:
        super().__init__()
        timm = importlib.import_module("timm")
        stages = len(arch.depths)
        self.features = timm.create_model(
            "swin_tiny_patch4_window7_224",
            pretrained=False,
            features_only=True,
            img_size=tuple(-(-side // self.PATCH) * self.PATCH for side in shape),
            embed_dim=arch.embed_dims,
            depths=arch.depths,
            num_heads=arch.num_heads,
            drop_path_rate=0.0,
            out_indices=tuple(range(stages)),
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(arch.embed_dims * 2**stage) for stage in range(stages)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`focal_mm.FocalTransformer.forward`."""
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % self.PATCH, 0, -height % self.PATCH))
        return tuple(
            norm(tokens).permute(0, 3, 1, 2).contiguous()
            for norm, tokens in zip(self.norms, self.features(image), strict=True)
        )


def _timm_swin(arch: Arch) -> Build:
    importlib.import_module("timm")
    return lambda shape: _seeded(lambda: TimmSwin(shape, arch))


SWINS: dict[str, Callable[[Arch], Build]] = {
    "mmdet": _mmdet_swin,
    "timm": _timm_swin,
}
"""Libraries that have a Swin Transformer, and how theirs is made."""


def swin_contestants(
    arch: Arch, libraries: Sequence[str] | None
) -> tuple[list[Contestant], list[Absent]]:
    """The Swin Transformer of each library, of the same size.

    Args:
        arch: Size of the models.
        libraries: Keys of :data:`SWINS`; None for all that can be imported.

    Raises:
        UserError: If a named library cannot be imported.
    """
    found, absent = [], []
    for library in SWINS if libraries is None else dict.fromkeys(libraries):
        name = f"Swin ({library})"
        try:
            build = SWINS[library](arch)
        except Exception as error:
            # Libraries check each other's versions in many ways.
            text = " ".join(str(error).split())
            reason = f"{library} cannot be imported: {type(error).__name__}: {text}"
            if libraries is not None:
                raise UserError(reason) from error
            absent.append(Absent(name, reason))
        else:
            found.append(Contestant(name, "swin", "", build))
    return found, absent
