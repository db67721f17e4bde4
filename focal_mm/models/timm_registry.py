"""The models in timm's registry: ``timm.create_model("focal_tiny")``.

timm takes a second to import, so importing focal_mm does not do that: the models are
registered when timm is imported, before or after.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from focal_mm.models.classifier import (
    FocalClassifier,
    FocalFeatures,
    check_global_pool,
    describe_stages,
)
from focal_mm.models.create import create_model, own_weights
from focal_mm.models.hub import TIMM_NAMES
from focal_mm.models.presets import MODELS

default_cfgs = {
    name: {
        # As configs/cls test: the middle 224 of 256 pixels.
        "input_size": (3, 224, 224),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "classifier": "head.fc",
        "license": "apache-2.0",
    }
    for name in MODELS
}
"""What timm reads beside the entry points. There are no weights to download."""


def register_with_timm() -> None:
    """Register the models now if timm is there, else when it is imported."""
    if "timm" in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm(MetaPathFinder):
    """Finds timm where the others find it, and has the models registered after it."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        # A folder of that name without code has no loader.
        if spec is not None and spec.loader is not None:
            _register_after(spec.loader)
        return spec


def _register_after(loader: Loader) -> None:
    def exec_module(module: ModuleType) -> None:
        del loader.exec_module  # This one: the class's comes forth.
        loader.exec_module(module)
        _register()

    loader.exec_module = exec_module


def _register() -> None:
    try:
        from timm.models import build_model_with_cfg, register_model
    except ImportError as error:
        # Not that of a version that others want.
        print_log(
            f"timm does not get focal_mm's models, it is older than 1.0: {error}",
            logger="current",
            level=logging.WARNING,
        )
        return
    for name in MODELS:
        register_model(_entry_point(name, build_model_with_cfg))


def _entry_point(
    name: str, build_model_with_cfg: Callable[..., nn.Module]
) -> Callable[..., nn.Module]:
    def entry_point(pretrained: bool = False, **arguments: Any) -> nn.Module:
        # Not by timm's wrappers: the maps are those that detectors get.
        features_only = arguments.pop("features_only", False)

        def build(**model_arguments: Any) -> nn.Module:
            return _build(name, features_only, **model_arguments)

        return build_model_with_cfg(
            build,
            name,
            pretrained,
            pretrained_filter_fn=_filter,
            # The log names what a checkpoint lacks.
            pretrained_strict=False,
            **arguments,
        )

    entry_point.__name__ = name
    entry_point.__doc__ = f"{name} of focal_mm; its arguments, and timm's."
    return entry_point


def _build(
    name: str,
    features_only: bool,
    drop_rate: float = 0.0,
    global_pool: str | None = None,
    **arguments: Any,
) -> FocalClassifier | FocalFeatures:
    """A model from timm's arguments; ``drop_rate`` is that of its head."""
    check_global_pool(global_pool)
    ours = {TIMM_NAMES.get(key, key): value for key, value in arguments.items()}
    model = create_model(name, features_only=features_only, **ours)
    if isinstance(model, FocalClassifier):
        model.head.drop.p = drop_rate
        return model
    from timm.models import FeatureInfo

    stages = describe_stages(model.backbone)
    model.feature_info = FeatureInfo(stages, model.backbone.out_indices)
    return model


def _filter(state: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    state = state.get("state_dict", state.get("model", state))
    return own_weights(state, model)
