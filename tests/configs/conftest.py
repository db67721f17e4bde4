"""Shared by the tests of rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmdet.models import ResNet
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS
from torch import nn

PVT_SIZES = {6: "Small", 18: "Medium", 27: "Large"}
SWIN_SIZES = {(96, 18): "Small", (128, 18): "Base", (192, 18): "Large"}


@pytest.fixture(scope="session")
def backbone_name() -> Callable[[Config], str]:
    """Gives the name of a config's backbone in the tables, read off its sizes."""

    def name(config: Config) -> str:
        cfg = config.model.backbone
        kind = cfg.type.rpartition(".")[2]
        if kind == "ResNet":
            return f"ResNet-{cfg.depth}"
        if kind == "ResNeXt":
            return f"ResNeXt-{cfg.depth}-{cfg.groups}x{cfg.base_width}d"
        if kind == "PyramidVisionTransformer":
            return f"PVT-{PVT_SIZES[cfg.num_layers[2]]}"
        # Ablations of depth give the sizes themselves: of Tiny, all of them.
        if kind == "SwinTransformer" and "arch" not in cfg:
            return f"Swin-{SWIN_SIZES.get((cfg.embed_dims, cfg.depths[2]), 'Tiny')}"
        arch = cfg.arch if isinstance(cfg.arch, str) else "tiny"
        if kind == "SwinTransformer":
            return f"Swin-{arch.title()}"
        fast = "fast-" if cfg.get("key_selection") == "topk" else ""
        return f"Focal-{fast}{arch.partition('_')[0].title()}"

    return name


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
