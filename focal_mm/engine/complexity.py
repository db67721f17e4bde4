"""Parameters and FLOPs of the model of a config, the way the paper's tables count.

What is counted:

- One FLOP is one multiply-add, as in the tables of this field: half of what PyTorch's
  counter gives, which counts the multiplication and the addition singly.
- Convolutions (deformable ones included), linear layers, and products of two
  activations, of which attention is one: the queries with the keys, the weights with
  the values. Norms, activations, interpolation, pooling of regions and
  post-processing are not counted.
- Attention counts by the paper's definition (section 3.2.1): ``(s + 2e)²`` fine keys
  for each query and a square of pooled ones for each coarse level. This is what the
  'sdpa' backend computes, so the backbone is counted with it whatever it is set to;
  the 'naive' one has the released models' duplicate keys besides (12 where s = 7 and
  e = 3).
- Keys of padding count, those of the map's border too: they are computed.
- A two-stage detector's box heads see 1000 proposals (those that learn their
  proposals: these), its mask heads 100 detections, as OpenMMLab's counter had it when
  the paper was written. Of auxiliary heads only the parameters count: they do not run
  at test time.

Nothing that is counted is computed: convolutions and products give zeros of the right
shape, so that a large model takes seconds and needs no weights. Everything else runs.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from focal_mm.engine.libraries import library_of
from focal_mm.layers.attention import MultiLevelAttention

PROPOSALS = 1000
DETECTIONS = 100

_aten = torch.ops.aten
_CPU_ATTENTION = _aten._scaled_dot_product_flash_attention_for_cpu
_COUNTED = {*flop_registry, _CPU_ATTENTION}
_WITH_WEIGHTS = (_aten.convolution, _aten.mm, _aten.addmm)
_RANDOM_FILLS = (_aten.uniform_, _aten.normal_, _aten.erfinv_)


@dataclass(frozen=True)
class Part:
    """One of a model's modules.

    Attributes:
        params: Parameters, frozen ones included.
        flops: Multiply-adds of one forward pass.
    """

    params: int
    flops: int


@dataclass(frozen=True)
class Complexity:
    """What one image costs.

    Attributes:
        height: Height of the image.
        width: Width of the image.
        params: Parameters, frozen ones included.
        flops: Multiply-adds of one forward pass.
        product_flops: Those of ``flops`` that are products of two activations:
            attention, and the dynamic convolutions of Sparse R-CNN.
        parts: The same by module.
    """

    height: int
    width: int
    params: int
    flops: int
    product_flops: int
    parts: dict[str, Part]


def measure(cfg: Config, shape: tuple[int, int] | None = None) -> Complexity:
    """Count the parameters and FLOPs of a config's model; see the module's docstring.

    Args:
        cfg: A config of detection, segmentation or classification.
        shape: (height, width) of the image; by default that of the field's tables,
            ``table_shape`` of :class:`~focal_mm.engine.libraries.Library`.

    Raises:
        UserError: If the config is of none of the libraries, or no shape is given and
            the config does not tell it.
    """
    library = library_of(cfg)
    height, width = shape or library.table_shape(cfg)
    counter = FlopCounterMode(
        display=False, custom_mapping={_CPU_ATTENTION: _attention_flops}
    )
    by_part = Counter()
    with DefaultScope.overwrite_default_scope(library.scope), _Zeros():
        model = MODELS.build(copy.deepcopy(cfg.model)).eval()
        parts = _parts(model)
        for name, module in parts.items():
            _follow(module, name, counter, by_part)
        for module in model.modules():
            _prepare(module)
        with torch.no_grad(), counter:
            # It hooks all modules for a table that nobody wants here, and a hooked qkv
            # would compute the pooled tokens' queries too.
            counter.mod_tracker.__exit__(None, None, None)
            image = torch.zeros(1, 3, height, width)
            if library.scope == "mmdet":
                _detect(model, image)
            else:
                model(image, mode="tensor")
    flops = counter.get_flop_counts()["Global"]
    products = sum(flops[kind] for kind in flops if kind not in _WITH_WEIGHTS)
    return Complexity(
        height=height,
        width=width,
        params=_num_params(model),
        flops=sum(flops.values()) // 2,
        product_flops=products // 2,
        parts={
            name: Part(_num_params(module), by_part[name] // 2)
            for name, module in parts.items()
        },
    )


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
) -> int:
    return sdpa_flop_count(query, key, value)


class _Zeros(TorchDispatchMode):
    """While it is on, what would be counted or drawn at random is zero."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._overloadpacket in _RANDOM_FILLS:
            return args[0].zero_()
        if func._overloadpacket not in _COUNTED:
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        out = func(*args, **kwargs)
        return tree_map_only(Tensor, lambda t: torch.zeros_like(t, device="cpu"), out)


def _parts(model: nn.Module) -> dict[str, nn.Module]:
    """A model's modules with parameters; a container of heads is taken apart."""
    parts = dict(model.named_children())
    for name, module in parts.pop("roi_head", nn.Module()).named_children():
        parts[f"roi_head.{name}"] = module
    return {name: module for name, module in parts.items() if _num_params(module)}


def _num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _entries(module: nn.Module) -> Iterable[nn.Module]:
    """The stages of a cascade's heads, or the only one."""
    return module if isinstance(module, nn.ModuleList) else [module]


def _follow(
    module: nn.Module, name: str, counter: FlopCounterMode, by_part: Counter[str]
) -> None:
    """Add what a module's forward passes cost to its entry of ``by_part``."""

    def followed(forward, *args, **kwargs):
        before = counter.get_total_flops()
        out = forward(*args, **kwargs)
        by_part[name] += counter.get_total_flops() - before
        return out

    for entry in _entries(module):
        # Not by hooks: the libraries also call forward() itself.
        entry.forward = functools.partial(followed, entry.forward)


def _prepare(module: nn.Module) -> None:
    """Let a module do what it does by operators that are counted."""
    if isinstance(module, MultiLevelAttention):
        module.backend = "sdpa"
    elif isinstance(module, nn.MultiheadAttention):
        # Which keeps it from its fused operator for inference.
        module.train()
    # By name: mmcv's operators need not be there where no model has them.
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if kinds & {"DeformConv2d", "ModulatedDeformConv2d"}:
        module.forward = functools.partial(_convolve, module)


def _convolve(module: nn.Module, x: Tensor, *_: Tensor) -> Tensor:
    """A plain convolution, of a deformable one's cost."""
    if hasattr(module, "conv_offset"):
        module.conv_offset(x)
    sizes = (module.stride, module.padding, module.dilation, module.groups)
    return F.conv2d(x, module.weight, None, *sizes)


def _detect(model: nn.Module, image: Tensor) -> None:
    """One forward pass, through both stages of a detector that has two."""
    from mmdet.structures import DetDataSample

    keys = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
    metainfo = dict.fromkeys(keys, tuple(image.shape[-2:]))
    samples = [DetDataSample(metainfo=dict(metainfo, scale_factor=(1.0, 1.0)))]
    if not hasattr(model, "roi_head"):
        model(image, samples, mode="tensor")
        return
    _fix_numbers(model, image)
    features = model.extract_feat(image)
    proposals = model.rpn_head.predict(features, samples, rescale=False)
    model.roi_head.predict(features, proposals, samples, rescale=False)


def _fix_numbers(model: nn.Module, image: Tensor) -> None:
    """Let a two-stage detector find the same number of boxes in every image."""
    model.rpn_head.predict_by_feat = lambda *_, **__: [_boxes(PROPOSALS, image)]
    for head in _entries(model.roi_head.bbox_head):
        head.predict_by_feat = lambda *_, **__: [_boxes(DETECTIONS, image)]
    if model.roi_head.with_mask:
        for head in _entries(model.roi_head.mask_head):
            # Pasting masks into the image takes long and is not counted.
            head.predict_by_feat = lambda *_, **__: [_boxes(0, image)]


def _boxes(number: int, image: Tensor) -> InstanceData:
    """Boxes of a quarter of the image's sides in a row along its diagonal."""
    corner = torch.linspace(0, 0.75, number)[:, None]
    size = torch.tensor([image.shape[-1], image.shape[-2]])
    return InstanceData(
        bboxes=torch.cat((corner * size, (corner + 0.25) * size), dim=1),
        scores=torch.ones(number),
        labels=torch.zeros(number, dtype=torch.long),
    )
