"""Sizes of the paper's models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from focal_mm.models.arguments import check_types
from focal_mm.ops.common.dispatch import check_range


class Arch(NamedTuple):
    """Size of a model.

    Attributes:
        embed_dims: Channels of the first stage; each stage doubles them.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
    """

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]


_LARGE = Arch(196, (2, 2, 18, 2), (4, 8, 16, 32))

ARCHS: dict[str, Arch] = {
    "tiny": Arch(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": Arch(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": Arch(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": _LARGE,
    "large_196": _LARGE,
    "large_196_7_heads": _LARGE._replace(num_heads=(7, 14, 28, 56)),
    "large_192": Arch(192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
"""Paper, table 1. It lacks 'large': section 4.1 widens 'base' from 128 to 196 and keeps
all else, so heads included. 'large_196_7_heads' has the head counts nearest to 32
channels a head that divide this width, 'large_192' Swin-Large's width and heads;
docs/complexity.md holds their parameters against the paper's."""


def _published() -> dict[str, dict[str, Any]]:
    models = {"focal_large": {"arch": "large", "drop_path_rate": 0.2}}
    # The paper's rates, and those of the released configs.
    for size, paper, released in (
        ("tiny", 0.2, 0.2),
        ("small", 0.2, 0.3),
        ("base", 0.3, 0.5),
    ):
        conv = dict(arch=size, drop_path_rate=released, use_conv_embed=True)
        models[f"focal_{size}"] = dict(arch=size, drop_path_rate=paper)
        models[f"focal_{size}_conv"] = conv
        models[f"focal_fast_{size}"] = {**conv, "key_selection": "topk"}
    return models


MODELS: dict[str, dict[str, Any]] = _published()
"""The published models by name, as arguments of the backbone where they differ from its
defaults: the rows of configs/cls, whose comments say where the rates come from."""


def parse_arch(arch: str | Mapping[str, int | Sequence[int]]) -> Arch:
    """Turn the ``arch`` argument into sizes.

    Args:
        arch: A preset's name, or a dict with exactly the keys of :class:`Arch`.

    Raises:
        TypeError: If a size is no whole number.
        ValueError: If the preset is unknown, keys are missing or unknown, or the
            sizes do not fit together.
    """
    if isinstance(arch, str) and arch in ARCHS:
        return ARCHS[arch]
    if not isinstance(arch, Mapping) or set(arch) != set(Arch._fields):
        raise ValueError(
            f"arch must be one of {sorted(ARCHS)} or a dict with exactly the keys "
            f"{list(Arch._fields)}, got {arch!r}"
        )
    parsed = _make_arch(**arch)
    if len(parsed.depths) != len(parsed.num_heads) or not parsed.depths:
        raise ValueError(
            "arch: depths and num_heads must name the same stages, got "
            f"{parsed.depths} and {parsed.num_heads}"
        )
    check_range("arch: embed_dims", parsed.embed_dims, 1)
    check_range("arch: depths", min(parsed.depths), 1)
    for stage, heads in enumerate(parsed.num_heads):
        channels = parsed.embed_dims * 2**stage
        if heads < 1 or channels % heads:
            raise ValueError(
                f"arch: num_heads={heads} of stage {stage} must divide its "
                f"{channels} channels"
            )
    return parsed


@check_types
def _make_arch(
    embed_dims: int, depths: Sequence[int], num_heads: Sequence[int]
) -> Arch:
    return Arch(embed_dims, tuple(depths), tuple(num_heads))
