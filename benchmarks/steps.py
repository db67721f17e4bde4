"""What is timed: a forward pass at inference, or a step of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.models import Contestant, Shape

MODES = ("inference", "training")
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Precision:
    """Where and how precisely a model computes.

    At inference weights and images have the dtype; in training they are float32, and
    precision is mixed (``torch.autocast``).
    """

    device: torch.device
    dtype: torch.dtype = torch.float32

    def autocast(self, mode: str) -> torch.autocast:
        mixed = mode == "training" and self.dtype != torch.float32
        return torch.autocast(
            self.device.type, self.dtype if mixed else None, enabled=mixed
        )

    def prepare(self, tensors: Tensor | nn.Module, mode: str) -> Tensor | nn.Module:
        dtype = self.dtype if mode == "inference" else torch.float32
        return tensors.to(self.device, dtype)


def make_images(shape: Shape, batch: int) -> Tensor:
    """Seeded noise, (batch, 3, height, width), float32 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, *shape, generator=generator)


def output_gradients(maps: tuple[Tensor, ...]) -> list[Tensor]:
    """Seeded noise in the shapes of a model's outputs, of norm 1 in each map.

    It stands for the gradients that a loss would send.
    """
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(m.shape, generator=generator).div(m.numel() ** 0.5).to(m)
        for m in maps
    ]


def outputs_and_gradients(
    model: nn.Module, images: Tensor, mode: str, precision: Precision
) -> dict[str, Tensor]:
    """What a model computes, by name, in float32.

    Args:
        model: Prepared for ``mode`` and ``precision``, as the images are.
        images: (N, 3, height, width).
        mode: One of :data:`MODES`. In training the gradients of all parameters are
            there too; afterwards the model has none.
        precision: Where and how precisely to compute.
    """
    model.train(mode == "training")
    if mode == "inference":
        with torch.inference_mode():
            maps = tuple(model(images))
    else:
        with precision.autocast(mode):
            maps = tuple(model(images))
        torch.autograd.backward(maps, output_gradients(maps))
    found = {
        f"output {index}": tensor.detach().float() for index, tensor in enumerate(maps)
    }
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"gradient of {name}"] = parameter.grad.float()
            parameter.grad = None
    return found


@dataclass
class Runner:
    """A contestant that is ready to run.

    Attributes:
        model: The plain model.
        images: What it sees.
        mode: One of :data:`MODES`.
        precision: Where and how precisely it computes.
        called: What is called: the model, or its compiled form.
        optimizer: In training.
    """

    model: nn.Module
    images: Tensor
    mode: str
    precision: Precision
    called: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    _gradients: list[Tensor] | None = None

    @classmethod
    def make(
        cls,
        contestant: Contestant,
        shape: Shape,
        batch: int,
        mode: str,
        precision: Precision,
        compiled: bool = False,
    ) -> Runner:
        """Build a contestant for images of a shape."""
        model = precision.prepare(contestant.build(shape), mode)
        model.train(mode == "training")
        optimizer = None
        if mode == "training":
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        called = torch.compile(model, dynamic=False) if compiled else model
        images = precision.prepare(make_images(shape, batch), mode)
        return cls(model, images, mode, precision, called, optimizer)

    @property
    def step(self) -> Callable[[], None]:
        """One inference, or one step of training: forward, backward, AdamW."""
        return self._infer if self.mode == "inference" else self._train

    def _infer(self) -> None:
        with torch.inference_mode():
            self.called(self.images)

    def _train(self) -> None:
        with self.precision.autocast(self.mode):
            maps = tuple(self.called(self.images))
        if self._gradients is None:
            self._gradients = output_gradients(maps)
        torch.autograd.backward(maps, self._gradients)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
