"""Shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from focal_mm import FocalTransformer

# The tensors of tests are small: more threads than one only wait for each other.
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """Largest difference over the reference's largest value; NaN is infinite."""

    def error(got: Tensor, reference: Tensor) -> float:
        assert got.shape == reference.shape
        largest = reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        value = ((got - reference).abs().max() / largest).item()
        return value if value == value else float("inf")

    return error


@pytest.fixture
def small_backbone() -> Callable[..., FocalTransformer]:
    """Builds a backbone of four small stages; arguments as the class takes them."""

    def build(**overrides: object) -> FocalTransformer:
        args = dict(
            arch=dict(embed_dims=16, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8)),
            drop_path_rate=0.0,
        )
        return FocalTransformer(**{**args, **overrides})

    return build


@pytest.fixture(scope="session")
def conformance_dir() -> Path:
    """Folder with the released models' inputs, weights, outputs and gradients."""
    folder = Path(
        os.environ.get("FOCAL_MM_CONFORMANCE", ROOT.parent / "shared/conformance")
    )
    if not (folder / "index.json").is_file():
        pytest.skip(
            f"no conformance data in {folder} (set FOCAL_MM_CONFORMANCE to its folder)"
        )
    return folder
