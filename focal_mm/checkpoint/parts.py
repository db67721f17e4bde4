"""The parts of a whole model's weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

BACKBONE = "backbone."
"""What names of the backbone's weights begin with in OpenMMLab's models."""


def split_backbone(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tell the backbone's weights from those of neck and heads.

    Args:
        state: Weights of a detector, segmentor or classifier, or of a backbone alone,
            or of a classifier of another library, whose names have no prefix.

    Returns:
        The backbone's without the prefix, or all where none has it; and the others.
    """
    own = {
        name.removeprefix(BACKBONE): value
        for name, value in state.items()
        if name.startswith(BACKBONE)
    }
    if not own:
        return dict(state), {}
    others = {k: v for k, v in state.items() if not k.startswith(BACKBONE)}
    return own, others
