"""A model, built without weights and run on a small image."""

import contextlib
import logging
import warnings
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData
from torch.overrides import TorchFunctionMode

from focal_mm.engine.config import walk
from focal_mm.engine.errors import UserError
from focal_mm.engine.libraries import LIBRARIES

_SIDE = 64
_PROPOSALS = 4


def check_model(cfg: Config) -> None:
    """Build the model of a config, and pass an image through all of it.

    A tiny one, 64×64; through a classifier one of its size, which may be the only one
    that it takes.

    On the run's device, with weights that are zero. (On the meta device, what depends
    on data cannot run, such as the second stage of a detector, and some models, such as
    mmdet's Swin, cannot be built.)

    Args:
        cfg: The config of a run; it is not changed.

    Raises:
        Exception: Of any type, if that fails.
    """
    model = deepcopy(cfg.model.get("module", cfg.model))
    for key, node in walk(model):
        # The boxes of detectors' first stage, a thousand by default.
        if "test_cfg" in key and "max_per_img" in node:
            node["max_per_img"] = _PROPOSALS
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            init_default_scope(cfg.get("default_scope", "mmengine"))
            with torch.device(get_device()):
                _run(model, _shape(cfg))
    finally:
        logging.disable(level)


def _shape(cfg: Config) -> tuple[int, int]:
    """(Height, width) of the image."""
    library = LIBRARIES.get(cfg.get("default_scope"))
    if library and not library.dense:
        with contextlib.suppress(UserError):
            return library.table_shape(cfg)
    return _SIDE, _SIDE


@torch.no_grad()
def _run(model: dict, shape: tuple[int, int]) -> None:
    with _NoRandomNumbers():
        built = MODELS.build(model).eval()
    for parameter in built.parameters():
        parameter.zero_()
    image = torch.zeros(3, *shape, dtype=torch.uint8)
    meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    sample = BaseDataElement(metainfo=meta)
    # Sparse R-CNN wants to see the field.
    sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0))
    data = dict(inputs=[image], data_samples=[sample])
    built(**built.data_preprocessor(data, False), mode="tensor")


class _NoRandomNumbers(TorchFunctionMode):
    """Leaves out what fills new weights, which takes most of the time of building."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        fills = function.__name__ in ("uniform_", "normal_", "erfinv_")
        if fills or getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)
