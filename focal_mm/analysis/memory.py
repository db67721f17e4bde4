"""How much memory a GPU needs to train the model of a config: computed, not measured.

What is added up:

- the parameters, what the optimizer keeps of each, and the buckets of gradients that
  data-parallel training exchanges;
- the largest sum of what a forward and a backward pass hold at one time: everything
  that is kept for the backward pass, gradients, and temporary tensors.

For the second, the passes run on the CPU over two small batches of images, and every
tensor that PyTorch allocates is followed until it is freed; what convolutions and
matrix products give is zeros of the right shape. A straight line through the two is
drawn on to the size of the training images, since maps grow with the number of pixels,
while parameters and sampled regions stay. Images are crowded (``OBJECTS`` objects), so
that samplers find as many positive regions as they take.

To be like a GPU where a CPU is not, attention keeps what PyTorch's memory-efficient
kernel keeps, and under mixed precision the norms compute in float32.

Not counted: the CUDA context and NCCL's buffers (about 1 GB), fragmentation, and what
kernels allocate for themselves.
"""

from __future__ import annotations

import copy
import importlib
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from focal_mm.engine.launch import adapt_config_to_cpu, type_name
from focal_mm.layers import FocalAttention

OBJECTS = 100
# Whole windows of 7 tokens in every stage.
SMALL_SHAPES = ((224, 448), (448, 448))

_aten = torch.ops.aten
_ZEROED = (
    *(_aten.convolution, _aten.convolution_backward),
    *(_aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm),
)
# Tensors of a parameter's size that the optimizer keeps.
_MOMENTS = {"AdamW": 2, "Adam": 2, "SGD": 1}


@dataclass(frozen=True)
class TrainingMemory:
    """What one GPU holds, in bytes.

    Attributes:
        images: Images per GPU and step.
        height: Height of the padded images.
        width: Width of the padded images.
        amp: Whether precision is mixed.
        state: Parameters, the optimizer's moments, and gradients in exchange.
        passes: The most that a forward and backward pass hold besides.
    """

    images: int
    height: int
    width: int
    amp: bool
    state: int
    passes: int

    @property
    def total(self) -> int:
        return self.state + self.passes


def estimate_training_memory(
    cfg: Config,
    shape: tuple[int, int] | None = None,
    images: int | None = None,
    amp: bool = False,
) -> TrainingMemory:
    """Compute what training a detector takes; see the module's docstring.

    Args:
        cfg: A config of MMDetection's.
        shape: (height, width) of the largest training image; by default as
            :func:`largest_shape` finds it.
        images: Images per GPU and step; by default the config's.
        amp: Mixed precision. A config with ``AmpOptimWrapper`` has it in any case.

    Raises:
        ValueError: If the config is of another library, or has an unknown optimizer.
    """
    if cfg.get("default_scope") != "mmdet":
        raise ValueError(
            f"its default_scope must be 'mmdet', got {cfg.get('default_scope')!r}"
        )
    optimizer = cfg.optim_wrapper.optimizer.type
    if optimizer not in _MOMENTS:
        raise ValueError(
            f"its optimizer must be one of {(*_MOMENTS,)}, got {optimizer}"
        )
    shape = shape or largest_shape(cfg)
    cfg = copy.deepcopy(cfg)
    images = images or cfg.train_dataloader.batch_size
    amp = amp or type_name(cfg.optim_wrapper.type) == "AmpOptimWrapper"
    adapt_config_to_cpu(cfg)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model).train()
        peaks = [_peak(model, images, size, amp) for size in SMALL_SHAPES]
    areas = [math.prod(size) for size in SMALL_SHAPES]
    slope = (peaks[1] - peaks[0]) / (areas[1] - areas[0])
    divisor = cfg.model.data_preprocessor.get("pad_size_divisor", 1)
    height, width = (math.ceil(side / divisor) * divisor for side in shape)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return TrainingMemory(
        images=images,
        height=height,
        width=width,
        amp=amp,
        state=4 * (frozen + trained * (1 + _MOMENTS[optimizer] + 1)),
        passes=round(peaks[0] + slope * (height * width - areas[0])),
    )


def largest_shape(cfg: Config) -> tuple[int, int]:
    """The (height, width) of the largest image of a training pipeline, lying.

    Raises:
        ValueError: If the pipeline does not say to which size it resizes.
    """
    scales = list(_scales(cfg.train_dataloader.dataset))
    if not scales:
        raise ValueError("its training pipeline has no Resize: give a shape")
    return max((min(scale), max(scale)) for scale in scales)


def _scales(node: Any) -> Iterator[tuple[int, int]]:
    """The sizes of all kinds of Resize in a pipeline, however nested."""
    if isinstance(node, dict):
        if "Resize" in str(node.get("type")):
            given = node.get("scale") or node.get("scales") or ()
            if given and isinstance(given[0], int):
                given = [given]
            yield from (tuple(scale) for scale in given)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _scales(child)


class _Allocations(TorchDispatchMode):
    """Follows tensors from their allocation on.

    Attributes:
        peak: The most bytes that were held at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._held = 0
        self._sizes: dict[int, int] = {}

    def ignore(self, tensor: Tensor) -> None:
        """Do not count a tensor that is there before."""
        self._sizes[tensor.untyped_storage()._cdata] = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._overloadpacket in _ZEROED:
            shapes = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
            out = func(*shapes[0], **shapes[1])
            out = tree_map_only(
                Tensor, lambda t: torch.zeros(t.shape, dtype=t.dtype, device="cpu"), out
            )
        else:
            out = func(*args, **kwargs)
        tree_map_only(Tensor, self._follow, out)
        return out

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self._held += storage.nbytes()
        self.peak = max(self.peak, self._held)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self._held -= self._sizes.pop(key)


def _peak(model: nn.Module, images: int, shape: tuple[int, int], amp: bool) -> int:
    """Bytes of a forward and backward pass, without the parameters themselves."""
    data = model.data_preprocessor(_crowd(images, shape), training=True)
    model.zero_grad(set_to_none=True)
    for module in model.modules():
        if isinstance(module, FocalAttention):
            # What runs by default here is for CPUs.
            module.backend = "sdpa"
    allocations = _Allocations()
    for tensor in (*model.parameters(), *model.buffers()):
        allocations.ignore(tensor)
    with ExitStack() as stack:
        stack.enter_context(_like_a_gpu(amp))
        stack.enter_context(allocations)
        with torch.autocast("cpu", torch.float16, enabled=amp):
            losses = model(**data, mode="loss")
        loss, _ = model.parse_losses(losses)
        del losses
        loss.backward()
    model.zero_grad(set_to_none=True)
    return allocations.peak


def _crowd(images: int, shape: tuple[int, int]) -> dict:
    """A batch with ``OBJECTS`` boxes and masks in every image."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    rng = np.random.default_rng(0)
    height, width = shape
    samples = []
    for _ in range(images):
        sides = np.exp(rng.uniform(math.log(16), math.log(192), (OBJECTS, 2)))
        corners = rng.uniform(0, 1, (OBJECTS, 2)) * ([width, height] - sides)
        boxes = np.concatenate((corners, corners + sides), axis=1).round()
        masks = np.zeros((OBJECTS, height, width), np.uint8)
        for mask, (left, top, right, bottom) in zip(
            masks, boxes.astype(int), strict=True
        ):
            mask[top:bottom, left:right] = 1
        sample = DetDataSample(
            metainfo=dict(
                img_shape=shape,
                ori_shape=shape,
                pad_shape=shape,
                batch_input_shape=shape,
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.zeros(OBJECTS, dtype=torch.long),
            masks=BitmapMasks(masks, height, width),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        sample.gt_sem_seg = PixelData(
            sem_seg=torch.zeros(1, height, width, dtype=torch.uint8)
        )
        samples.append(sample)
    inputs = [torch.zeros(3, *shape, dtype=torch.uint8) for _ in samples]
    return dict(inputs=inputs, data_samples=samples)


class _FusedAttention(torch.autograd.Function):
    """Keeps and allocates what PyTorch's memory-efficient attention does."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
    ) -> Tensor:
        output = query.new_zeros(*query.shape[:-1], value.shape[-1])
        logsumexp = query.new_zeros(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, bias, output, logsumexp)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, *_ = ctx.saved_tensors
        grad_bias = None
        if bias is not None and ctx.needs_input_grad[3]:
            full = bias.new_zeros(*query.shape[:-1], key.shape[-2])
            grad_bias = full.sum_to_size(bias.shape)
        return *map(torch.zeros_like, (query, key, value)), grad_bias


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    return _FusedAttention.apply(query, key, value, attn_mask)


@contextmanager
def _like_a_gpu(amp: bool) -> Iterator[None]:
    """Let the CPU keep the tensors that a GPU would."""
    with ExitStack() as stack:
        stack.enter_context(
            mock.patch.object(F, "scaled_dot_product_attention", _fused_attention)
        )
        stack.enter_context(mock.patch.multiple(_mmcv_kernels(), **_kernels()))
        if amp:
            for name in ("layer_norm", "group_norm", "softmax"):
                stack.enter_context(
                    mock.patch.object(F, name, _in_float32(getattr(F, name)))
                )
        yield


def _kernels() -> dict[str, Callable[..., Any]]:
    """MMCV's kernels that are slow on the CPU or do not take half precision there.

    They fill tensors that are allocated before; those of the backward passes are zero.
    """
    suppress = _mmcv_kernels().nms

    def nms(boxes: Tensor, scores: Tensor, **options: Any) -> Tensor:
        return suppress(boxes.float(), scores.float(), **options)

    backward = (
        "roi_align_backward",
        "deform_conv_backward_input",
        "deform_conv_backward_parameters",
        "modulated_deform_conv_backward",
    )
    return {
        "nms": nms,
        "roi_align_forward": _zero(2),
        "deform_conv_forward": _zero(3),
        "modulated_deform_conv_forward": _zero(6),
        **dict.fromkeys(backward, lambda *_, **__: None),
    }


def _mmcv_kernels() -> ModuleType:
    return importlib.import_module("mmcv._ext")


def _zero(index: int) -> Callable[..., None]:
    """A kernel of which one positional argument is the output."""

    def kernel(*args: Any, **_: Any) -> None:
        args[index].zero_()

    return kernel


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def wrapped(tensor: Tensor, *args, **kwargs) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return function(tensor.float(), *args, **kwargs)

    return wrapped
