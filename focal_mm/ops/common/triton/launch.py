"""Launching the kernels: what is the same for all key selections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from focal_mm.ops.common.pyramid import WindowPyramid
from focal_mm.ops.common.triton.kernels import (
    KeyFunctions,
    backward_bias_kernel,
    backward_key_kernel,
    backward_query_kernel,
    forward_kernel,
)
from focal_mm.ops.common.triton.settings import (
    Launch,
    Settings,
    allows_tf32,
    block_of,
    choose_settings,
    device_of,
    interpreted,
)
from focal_mm.ops.common.triton.tiles import LOG2_E, Group, Meta, Queries


def _channels_contiguous(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if its channels are not contiguous."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _token_strides(tensor: Tensor) -> tuple[int, ...]:
    """All strides but that of the channels."""
    return tensor.stride()[:-1]


@dataclass(frozen=True)
class Call(ABC):
    """One attention, as the kernels want it; :meth:`of` makes one.

    A key selection's subclass says how many keys there are and which biases and lists
    the kernels read: ``functions`` are its side on the device.

    Attributes:
        query: (B, H, W, h, d); channels are contiguous.
        keys, values: Per group, the fine one first, (B, Hk, Wk, h, d), likewise.
        biases: Per group, as the operator takes them.
        geometry: The sizes.
        scale: Factor of the products.
    """

    functions: ClassVar[KeyFunctions]

    query: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    geometry: WindowPyramid
    scale: float

    @classmethod
    def of(
        cls,
        query: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        biases: Sequence[Tensor],
        sizes: Sequence[int],
        scale: float,
    ) -> Call:
        """A call; copies only tensors whose channels are not contiguous.

        Args:
            query: As the attribute but of any strides, like the next three.
            keys: Keys.
            values: Values.
            biases: Biases.
            sizes: The fields of the geometry in their order.
            scale: Factor of the products.
        """
        return cls(
            _channels_contiguous(query),
            tuple(map(_channels_contiguous, keys)),
            tuple(map(_channels_contiguous, values)),
            tuple(biases),
            cls.make_geometry(*sizes),
            scale,
        )

    @staticmethod
    @abstractmethod
    def make_geometry(*sizes: int) -> WindowPyramid:
        """The sizes as the key selection's geometry."""

    @property
    @abstractmethod
    def counts(self) -> tuple[int, ...]:
        """Keys of a window, per group."""

    @property
    @abstractmethod
    def specs(self) -> tuple[tuple[int, ...], ...]:
        """``Meta.SPECS``."""

    @abstractmethod
    def packed(self) -> tuple[Tensor, ...]:
        """Biases (h, rows, columns) as the kernels read them, per group."""

    def window_lists(self, number: int) -> tuple[Tensor, ...]:
        """Lists of group ``number`` for the kernels of the queries."""
        return ()

    @abstractmethod
    def for_keys(
        self, number: int, bias: Tensor, launch: Launch
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Packed bias and lists for the gradients of group ``number``'s keys."""

    @abstractmethod
    def for_bias(self, number: int, block: int) -> tuple[int, tuple[Tensor, ...]]:
        """Tiles of ``block`` columns, and lists, for the gradient of a bias."""

    @abstractmethod
    def unpack(self, number: int, block: int, grad: Tensor) -> Tensor:
        """The gradient of ``biases[number]`` from (h, s², columns) float32."""

    @property
    def grid(self) -> tuple[int, int]:
        """Windows of the map, (rows, columns)."""
        size = self.geometry.window_size
        return self.query.shape[1] // size, self.query.shape[2] // size

    @property
    def settings(self) -> Settings:
        """How the kernels are started."""
        return choose_settings(self.geometry, self.query.shape[-1], self.query.dtype)

    @property
    def _scales(self) -> tuple[float, float]:
        """Factor of the products for logits in units of log 2, and as it is."""
        return self.scale * LOG2_E, self.scale

    def _blocks(self, launch: Launch) -> tuple[int, ...]:
        """Keys of a tile, per group: few keys take a small tile."""
        return tuple(min(launch.block_n, block_of(count)) for count in self.counts)

    def _constants(self, launch: Launch) -> dict[str, object]:
        """Compile-time arguments and options of a kernel."""
        channels, rows = self.query.shape[-1], self.grid[0]
        meta = Meta(
            S=self.geometry.window_size,
            STEPS=tuple(key.shape[1] // rows for key in self.keys),
            SPECS=self.specs,
            D=channels,
            BLOCK_D=block_of(channels),
            BLOCK_M=launch.block_m,
            BLOCKS_N=self._blocks(launch),
            TILE_ROWS=launch.tile_rows,
            TILE_COLS=launch.tile_cols,
            PRECISION="tf32" if allows_tf32() else "ieee",
            WIDEN=interpreted() and self.query.dtype == torch.bfloat16,
        )
        return dict(META=meta, num_warps=launch.warps, num_stages=launch.stages)

    def _group(self, number: int, bias: Tensor, lists: tuple[Tensor, ...]) -> Group:
        key, value = self.keys[number], self.values[number]
        return Group(
            key,
            value,
            _token_strides(key),
            _token_strides(value),
            bias,
            _token_strides(bias),
            self.counts[number],
            lists,
        )

    def _groups(self, biases: Sequence[Tensor]) -> tuple[Group, ...]:
        return tuple(
            self._group(number, bias, self.window_lists(number))
            for number, bias in enumerate(biases)
        )

    def _start_by_window(self, kernel, launch: Launch, *tensors: object) -> None:
        """Start a kernel with a program per window, tile of queries, image and head."""
        rows, cols = self.grid
        tiles = -(-self.geometry.window_area // launch.block_m)
        kernel[(rows * cols * tiles, self.query.shape[0], self.query.shape[3])](
            *tensors,
            rows,
            cols,
            self._scales,
            COUNT=self.functions.count,
            KEYS=self.functions.keys,
            **self._constants(launch),
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        """Output (B, H, W, h, d), and log2 of the denominators (B, h, H, W) float32."""
        query = self.query
        batch, height, width, heads, _ = query.shape
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        lse = out.new_empty((batch, heads, height, width), dtype=torch.float32)
        with device_of(query):
            queries = Queries(query, _token_strides(query), out, lse)
            groups = self._groups(self.packed())
            self._start_by_window(
                forward_kernel, self.settings.forward, queries, groups
            )
        return out, lse

    def backward(
        self, out: Tensor, lse: Tensor, grad_out: Tensor, needs_biases: bool
    ) -> list[Tensor]:
        """Gradients of the query, of all groups' keys, values and biases.

        All sums are gathered in a fixed order: two runs agree in every bit.

        Args:
            out: What :meth:`forward` returned.
            lse: What it returned.
            grad_out: (B, H, W, h, d).
            needs_biases: Whether the biases' gradients are wanted; else they are left
                out.
        """
        settings, numbers = self.settings, range(len(self.keys))
        grad_query, delta = torch.empty_like(out), torch.empty_like(lse)
        grads = [[], [], []]
        with device_of(out):
            queries = Queries(
                self.query,
                _token_strides(self.query),
                out,
                lse,
                grad_out.contiguous(),
                delta,
            )
            biases = self.packed()
            self._start_by_window(
                backward_query_kernel,
                settings.backward_query,
                queries,
                self._groups(biases),
                grad_query,
            )
            for number, bias in zip(numbers, biases, strict=True):
                launch = settings.backward_pooled if number else settings.backward_fine
                grad_key, grad_value = self._backward_key(number, bias, queries, launch)
                grads[0].append(grad_key)
                grads[1].append(grad_value)
                if needs_biases:
                    launch = settings.backward_bias
                    grads[2].append(self._backward_bias(number, bias, queries, launch))
        return [grad_query, *grads[0], *grads[1], *grads[2]]

    def _backward_key(
        self, number: int, bias: Tensor, queries: Queries, launch: Launch
    ) -> tuple[Tensor, Tensor]:
        """Gradients of one group's keys and values."""
        key = self.keys[number]
        batch, map_rows, map_cols, heads, _ = key.shape
        grad_key = torch.empty(key.shape, dtype=key.dtype, device=key.device)
        grad_value = torch.empty_like(grad_key)
        tiles = -(-map_rows // launch.tile_rows) * -(-map_cols // launch.tile_cols)
        backward_key_kernel[(tiles, batch, heads)](
            queries,
            self._group(number, *self.for_keys(number, bias, launch)),
            grad_key,
            grad_value,
            *self.grid,
            self._scales,
            G=number,
            VISITS=self.functions.visits,
            VISIT=self.functions.visit,
            **self._constants(launch),
        )
        return grad_key, grad_value

    def _backward_bias(
        self, number: int, bias: Tensor, queries: Queries, launch: Launch
    ) -> Tensor:
        """Gradient of one group's bias."""
        (rows, cols), area = self.grid, self.geometry.window_area
        batch, heads = self.query.shape[0], self.query.shape[3]
        block = self._blocks(launch)[number]
        tiles, lists = self.for_bias(number, block)
        programs = tiles * -(-area // launch.block_m)
        shares = launch.shares(heads * programs, batch * rows * cols, bias.device)
        partial = bias.new_empty(
            (shares, heads, area, tiles * block), dtype=torch.float32
        )
        backward_bias_kernel[(shares, programs, heads)](
            queries,
            self._group(number, bias, lists),
            partial,
            batch,
            rows,
            cols,
            self._scales,
            G=number,
            BIAS_TILE=self.functions.bias_tile,
            BIAS_VISIT=self.functions.bias_visit,
            **self._constants(launch),
        )
        grad = self.unpack(number, block, partial.sum(0))
        return grad.to(self.biases[number].dtype)
