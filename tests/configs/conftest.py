"""Shared by the tests of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models import ResNet
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS
from torch import nn

from tools import model_zoo as zoo

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def paper_parameters() -> Callable[[Path], float | None]:
    """Gives the parameters of a row in millions, None where the paper does not."""

    def find(path: Path) -> float | None:
        name = path.relative_to(ROOT).as_posix()
        folder = ROOT / "configs" / name.split("/")[1]
        for model in zoo.read_metafile(folder / zoo.METAFILE)["Models"]:
            if model["Config"] == name and "Parameters" in model["Metadata"]:
                return model["Metadata"]["Parameters"] / 1e6
        return None

    return find


@pytest.fixture(scope="session")
def count_millions() -> Callable[[nn.Module], float]:
    return lambda model: sum(p.numel() for p in model.parameters()) / 1e6


@pytest.fixture(scope="session")
def train_a_step() -> Callable[[nn.Module, Config], None]:
    """Trains a model on the first two images of its training data."""

    def train(model: nn.Module, config: Config) -> None:
        dataset = DATASETS.build(config.train_dataloader.dataset)
        np.random.seed(0)
        wrapper = build_optim_wrapper(model, config.optim_wrapper)
        model.train()
        for module in model.modules():
            # Which blocks stochastic depth skips is chance.
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0
        data = model.data_preprocessor(pseudo_collate([dataset[0], dataset[1]]), True)
        total, parts = model.parse_losses(model(**data, mode="loss"))
        assert all(torch.isfinite(value).all() for value in parts.values()), parts
        wrapper.backward(total)
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert trainable
        assert not [n for n, p in trainable.items() if p.grad is None]
        assert not [n for n, p in trainable.items() if not p.grad.isfinite().all()]
        # What the backbone has takes part. (ResNet's residual branches start at zero.)
        if not isinstance(model.backbone, ResNet):
            grads = {n: p.grad for n, p in trainable.items() if "backbone." in n}
            assert not [n for n, grad in grads.items() if not grad.any()]
        optimised = {
            id(p) for group in wrapper.optimizer.param_groups for p in group["params"]
        }
        assert optimised >= {id(p) for p in trainable.values()}
        before = {name: p.detach().clone() for name, p in trainable.items()}
        wrapper.step()
        assert any((before[name] != p).any() for name, p in trainable.items())
        assert all(p.isfinite().all() for p in trainable.values())
        wrapper.zero_grad()

    return train
