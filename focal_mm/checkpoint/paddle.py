"""Files of PaddlePaddle, and the layout of PaddleViT's Focal Transformers.

A ``.pdparams`` file is a pickle. It is read by an unpickler that knows NumPy arrays and
plain containers and has stand-ins for the few functions that such pickles call, so that
nothing that a file names is ever run.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from focal_mm.checkpoint.errors import CheckpointError
from focal_mm.checkpoint.released import (
    DERIVED_BUFFER,
    convert_released,
    is_released,
)

_TORCH_MAGIC = pickle.encode_long(torch.serialization.MAGIC_NUMBER)

_DTYPES = ("b1", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8")

_SLICED = "UnpackBigParamInfor@@"
"""Entry of a file: which arrays are slices of a larger one, and its shape."""

_PARAMETER_NAMES = "StructuredToParameterName@@"
"""Entry of a file: Paddle's internal names of the parameters."""


def _empty_array(*_: Any) -> np.ndarray:
    """Stands for NumPy's ``_reconstruct``; NumPy checks the state that fills it."""
    return np.empty(0)


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Stands for NumPy's ``_frombuffer``, which protocol 5 calls."""
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C").item()


def _dtype(code: Any, *_: Any) -> np.dtype:
    if code not in _DTYPES:
        raise ValueError(f"an array's type is none of {', '.join(_DTYPES)}")
    return np.dtype(code)


def _encode(text: str, encoding: str) -> bytes:
    """Stands for ``codecs.encode``, which protocol 2 calls for bytes."""
    if encoding != "latin1":
        raise ValueError("bytes are in another encoding than latin1")
    return str.encode(text, "latin1")


def _data_of_tensor(pair: tuple[str, np.ndarray]) -> np.ndarray:
    """Stands for ``tuple``, which Paddle calls for tensors in nested containers."""
    return pair[1]


_STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _dtype,
    "numpy.ndarray": _empty_array,
    # NumPy 1 and 2 have them in different modules.
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in {
            "multiarray._reconstruct": _empty_array,
            "multiarray.scalar": _scalar,
            "numeric._frombuffer": _array,
        }.items()
    },
    "_codecs.encode": _encode,
    # Protocol 2 calls it for no bytes.
    "__builtin__.bytes": lambda: b"",
    "collections.OrderedDict": dict,
    "builtins.tuple": _data_of_tensor,
    "__builtin__.tuple": _data_of_tensor,
}


# The Python class: the C one lets no opcode be replaced, and fills the memory that a
# forged memo index asks for.
class _Unpickler(pickle._Unpickler):
    """Reads arrays and plain containers."""

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        asked = f"{module}.{name}"
        if asked not in _STAND_INS:
            raise pickle.UnpicklingError(f"Unsupported class {asked[:80]!a}")
        return _STAND_INS[asked]

    def load_build(self) -> None:
        """Fill an array; the state of a number's type says nothing but its byte order.

        Nothing else has a state: by default, BUILD sets attributes of what it finds.
        """
        target, state = self.stack[-2:]
        if isinstance(target, np.ndarray):
            super().load_build()
        elif isinstance(target, np.dtype) and state[1] in ("<", "|"):
            self.stack.pop()
        else:
            raise pickle.UnpicklingError(
                f"Unsupported state of the class {type(target).__name__}"
            )

    def load_bytearray8(self) -> None:
        """As bytes: a bytearray fills the memory that a damaged length asks for."""
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def is_plain_pickle(path: str | Path) -> bool:
    """Whether a file is a pickle that PyTorch has not written."""
    with open(path, "rb") as file:
        head = file.read(32)
    return head.startswith(pickle.PROTO) and _TORCH_MAGIC not in head


def _tensors(entries: dict[str, Any], map_location: str) -> dict[str, Any]:
    """Arrays as tensors, sliced ones in one piece."""
    entries = {k: v for k, v in entries.items() if k != _PARAMETER_NAMES}
    for name, how in entries.pop(_SLICED, {}).items():
        pieces = [entries.pop(piece) for piece in how["slices"]]
        entries[name] = np.concatenate(pieces).reshape(how["OriginShape"])
    return {
        name: torch.from_numpy(np.require(value, requirements="CW")).to(map_location)
        if isinstance(value, np.ndarray)
        else value
        for name, value in entries.items()
    }


def read_paddle(path: str | Path, map_location: str = "cpu") -> dict[str, Any]:
    """Read what ``paddle.save`` has written, without PaddlePaddle.

    Args:
        path: A ``.pdparams`` file, written with pickle protocol 2 to 5.
        map_location: Device that tensors are put on.

    Returns:
        Tensors by name, or dicts of them as the file has them; other plain data is
        as it is. Paddle's own entries are resolved.

    Raises:
        pickle.UnpicklingError: If the file names anything but arrays and plain data.
        Exception: Of many kinds, if it is damaged.
    """
    with open(path, "rb") as file:
        loaded = _Unpickler(file).load()
    if not isinstance(loaded, dict):
        return loaded
    return {
        name: _tensors(value, map_location) if isinstance(value, dict) else value
        for name, value in _tensors(loaded, map_location).items()
    }


def is_paddle(state: Mapping[str, Any]) -> bool:
    """Whether these are a Focal Transformer's weights as Paddle keeps them.

    Names are the released ones; the weights of linear layers are (in, out), which the
    biases tell.
    """
    if not is_released(state):
        return False
    return any(
        state[name].shape[-1] == len(state[f"{name[:-6]}bias"]) != len(state[name])
        for name in state
        if name.endswith(".mlp.fc1.weight") and f"{name[:-6]}bias" in state
    )


def _upright(name: str, table: Tensor, channels: int) -> Tensor:
    """A position bias table with its axes in the released order.

    Some ports transpose every parameter of two axes. One axis is that of the heads,
    which divide the channels, the other a square's; if both ways fit, a table has more
    cells than heads.
    """
    fits = {
        cells: table.shape[cells]
        for cells in (0, 1)
        if math.isqrt(table.shape[cells]) ** 2 == table.shape[cells]
        and channels % table.shape[1 - cells] == 0
    }
    if not fits:
        raise CheckpointError(f"{name} is no table of biases: {tuple(table.shape)}")
    cells = 0 if name.endswith("relative_position_bias_table") else 1
    return table if max(fits, key=fits.get) == cells else table.T.contiguous()


def convert_paddle(state: Mapping[str, np.ndarray | Tensor]) -> dict[str, Tensor]:
    """Convert PaddleViT's port of a released model to an mmpretrain ImageClassifier's.

    Paddle keeps the weights of linear layers as (in, out), and of convolutions as
    PyTorch does. Names are those of the released files.

    Args:
        state: Arrays by name, from a ``.pdparams`` file. May be a part of a model.

    Returns:
        Tensors under ``backbone.…`` and ``head.fc.…``, without the derived buffers;
        see :func:`focal_mm.checkpoint.convert_released`.

    Raises:
        CheckpointError: If a name is not one of a released Focal Transformer's, or a
            table has the shape of none.
    """
    converted = {}
    for name, value in state.items():
        if DERIVED_BUFFER.search(name):
            continue
        tensor = torch.as_tensor(value)
        if tensor.ndim == 2 and name.endswith(".weight"):
            tensor = tensor.T.contiguous()
        elif tensor.ndim == 2 and "relative_position_bias_table" in name:
            block = name[: name.index("attn.")]
            tensor = _upright(name, tensor, len(state[f"{block}norm1.weight"]))
        converted[name] = tensor
    return convert_released(converted)
