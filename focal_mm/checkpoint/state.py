"""Fitting a state dict to a backbone: renaming, resizing, and saying what was done."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmengine.logging import print_log
from torch import Tensor, nn

from focal_mm.checkpoint import interpolate
from focal_mm.checkpoint.errors import CheckpointError
from focal_mm.checkpoint.layouts import to_openmmlab
from focal_mm.checkpoint.parts import BACKBONE
from focal_mm.checkpoint.released import DERIVED_BUFFER
from focal_mm.layers import ATTENTIONS

_TABLE = re.compile(
    r"relative_position_bias_table|absolute_pos_embed|pool_layers\.|gamma_[12]$"
)
"""What a checkpoint of the same network may lack or have in another size."""

_KEY_SELECTION = {
    name: re.compile(rf"\.attn\.{attention.bias_name}")
    for name, attention in ATTENTIONS.items()
}
"""The position biases by which one knows a key selection, as the backbone calls it."""

_OUTPUT_NORM = re.compile(r"norm\d+\.(weight|bias)$")

_STEM = "patch_embed.proj.weight"

RESIZED = "tables resized"
CHANNELS = "input channels adapted (one: RGB summed; others: repeated and scaled)"
INITIALISED = "tables initialised, the checkpoint has none"
MISSING = "keys missing in the checkpoint"
DROPPED = "keys dropped, no place in the model"

Report = dict[str, list[str]]
"""What was done to fit a state dict: names by one of the five above."""


def _resize(name: str, state: Mapping[str, Tensor], target: nn.Module) -> Tensor:
    """The tensor ``name`` of the file in the size that the model has, where it can be.

    Raises:
        ValueError: If it cannot be resized.
        KeyError: If the file lacks what it depends on.
    """
    tensor, wanted = state[name], target.get_parameter(name).shape
    if name == _STEM:
        return interpolate.adapt_input_channels(tensor, wanted[1])
    if name == "absolute_pos_embed":
        side = interpolate.square_side(tensor.shape[1])
        grid = target.pos_embed_grid
        return interpolate.resize_pos_embed(tensor, (side, side), grid)
    if "_to_windows." in name:
        return interpolate.resize_square(tensor, wanted[1])
    if name.endswith("_to_neighbors"):
        window_name = name.removesuffix("_to_neighbors")
        window_rows = target.get_parameter(window_name).shape[0]
        return interpolate.resize_neighbor_table(
            tensor,
            state[window_name],
            interpolate.fine_geometry(state[window_name].shape[0], tensor.shape[-1]),
            interpolate.fine_geometry(window_rows, wanted[-1]),
        )
    if "pool_layers." in name:
        return interpolate.resize_pool(tensor, wanted)
    if _TABLE.search(name):
        return interpolate.resize_window_table(tensor, wanted[0])
    return tensor


def fit_state_dict(
    state: Mapping[str, Tensor], model: nn.Module
) -> tuple[dict[str, Tensor], Report]:
    """Fit backbone weights to a backbone.

    Args:
        state: Weights under the backbone's own names, or in a layout of
            :data:`focal_mm.checkpoint.layouts.LAYOUTS`.
        model: The :class:`focal_mm.models.FocalTransformer`; not changed.

    Returns:
        The weights under the backbone's names and in its sizes, and what was done.
        What the backbone has no place for is kept; what cannot be brought to its size
        is left as it is, but for tables, which are left out.
    """
    report: Report = {
        what: [] for what in (RESIZED, CHANNELS, INITIALISED, MISSING, DROPPED)
    }
    converted = to_openmmlab(state)
    if converted is not None:
        report[DROPPED] += [k for k in converted if not k.startswith(BACKBONE)]
        state = {
            name.removeprefix(BACKBONE): value
            for name, value in converted.items()
            if name.startswith(BACKBONE)
        }
    state = {k: v for k, v in state.items() if not DERIVED_BUFFER.search(k)}
    wanted = dict(model.named_parameters())
    fitted = {}
    for name, value in state.items():
        if name not in wanted:
            report[DROPPED].append(name)
            fitted[name] = value
        elif value.shape == wanted[name].shape:
            fitted[name] = value
        else:
            sizes = f"{tuple(value.shape)} -> {tuple(wanted[name].shape)}"
            try:
                fitted[name] = _resize(name, state, model)
            except (ValueError, KeyError) as error:
                report[DROPPED].append(f"{name} ({sizes}: {error})")
                continue
            if fitted[name].shape == wanted[name].shape:
                how = " over the halo" if name.endswith("_to_neighbors") else ""
                what = CHANNELS if name == _STEM else RESIZED
                report[what].append(f"{name} {sizes}{how}")
    for name in wanted:
        if name not in fitted:
            report[INITIALISED if _TABLE.search(name) else MISSING].append(name)
    return fitted, report


def check_state_dict(state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Check that weights are those of the same network as a backbone's.

    The rule for files; a module's own ``load_state_dict`` takes what PyTorch takes.

    Args:
        state: As for :func:`fit_state_dict`.
        model: The :class:`focal_mm.models.FocalTransformer`; not changed.

    Raises:
        CheckpointError: If a weight is missing that no option can add or leave out, or
            weights have other sizes or belong to other blocks.
    """
    state, _ = fit_state_dict(state, model)
    wanted = dict(model.named_parameters())
    if not any(name in wanted for name in state):
        raise CheckpointError(
            "not a checkpoint of this model: none of its names are the backbone's "
            f"(the first is {next(iter(state), None)!r}); nothing was loaded"
        )
    for selection, biases in _KEY_SELECTION.items():
        in_file, in_model = (
            any(map(biases.search, names)) for names in (state, wanted)
        )
        if in_file and not in_model:
            raise CheckpointError(
                "not a checkpoint of this model: it was trained with "
                f"key_selection={selection!r}, the model has another one and its "
                "position biases; nothing was loaded"
            )
    for name, value in state.items():
        if name in wanted and value.shape != wanted[name].shape:
            raise CheckpointError(
                f"not a checkpoint of this model: {name} is {tuple(value.shape)} in "
                f"the file, {tuple(wanted[name].shape)} in the model; nothing was "
                "loaded"
            )
    core = [
        name
        for name in wanted
        if not _TABLE.search(name) and not _OUTPUT_NORM.match(name)
    ]
    missing = [name for name in core if name not in state]
    if missing:
        raise CheckpointError(
            f"not a checkpoint of this model: {len(missing)} of {len(core)} weights "
            f"are missing, the first is {missing[0]!r}; nothing was loaded"
        )
    built = {name.split(".")[1] for name in core if name.startswith("stages.")}
    for name in state:
        block = re.match(r"stages\.(\d+)\.blocks\.\d+\.", name)
        if block and block[1] in built and f"{block[0]}norm1.weight" not in wanted:
            raise CheckpointError(
                f"not a checkpoint of this model: {name} belongs to a block that the "
                "model does not have (other depths); nothing was loaded"
            )


def adapt_state_dict(
    module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Load pre-hook of the backbone: fit its part of ``state_dict`` and log it.

    PyTorch passes more arguments. Nothing is refused here: PyTorch says what is missing
    or of another size, and :func:`check_state_dict` is for those who read files.
    """
    own = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
    if not own:
        return
    state = {name.removeprefix(prefix): value for name, value in own.items()}
    fitted, report = fit_state_dict(state, module)
    for name in own:
        del state_dict[name]
    state_dict.update({prefix + name: value for name, value in fitted.items()})
    for what, names in report.items():
        if names:
            line = f"{what} ({len(names)}): {', '.join(names)}"
            print_log(f"{type(module).__name__}: {line}", logger="current")
