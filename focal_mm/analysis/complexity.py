"""Parameters and FLOPs of the model of a config, the way the paper's tables count.

What is counted:

- One FLOP is one multiply-add, as in the tables of this field: half of what counts
  the multiplication and the addition singly.
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
import importlib.util
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_flop

from focal_mm.layers.attention import MultiLevelAttention

PROPOSALS = 1000
DETECTIONS = 100
DETECTION_SHAPE = (800, 1280)
SCOPES = ("mmdet", "mmseg", "mmpretrain")

_aten = torch.ops.aten
_FORMULAS = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
}
# Products of two activations; the rest has weights.
_PRODUCTS = (
    _aten.bmm,
    _aten.baddbmm,
    _aten._scaled_dot_product_flash_attention_for_cpu,
)
_RANDOM_FILLS = (_aten.uniform_, _aten.normal_, _aten.erfinv_)
_CROPS = {"RandomCrop": "crop_size", "RandomResizedCrop": "scale"}


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

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def default_shape(cfg: Config) -> tuple[int, int]:
    """The (height, width) of the image for which the field's tables count.

    Detection: 800×1280. Segmentation: the training crop's height by four times that,
    512×2048 for a crop of 512. Classification: the training crop.

    Raises:
        ValueError: If the config's ``default_scope`` is of no task, or its training
            pipeline does not crop.
    """
    scope = _scope(cfg)
    if scope == "mmdet":
        return DETECTION_SHAPE
    crop = _find_crop(cfg.get("train_dataloader"))
    if crop is None:
        raise ValueError(
            f"its train_dataloader has none of {', '.join(_CROPS)} to take the image's "
            "size from"
        )
    height, width = (crop, crop) if isinstance(crop, int) else crop
    return (height, 4 * height) if scope == "mmseg" else (height, width)


def measure(cfg: Config, shape: tuple[int, int] | None = None) -> Complexity:
    """Count the parameters and FLOPs of a config's model; see the module's docstring.

    Args:
        cfg: A config of detection, segmentation or classification.
        shape: (height, width) of the image; by default :func:`default_shape`.

    Raises:
        ValueError: As :func:`default_shape`.
    """
    scope = _scope(cfg)
    height, width = shape or default_shape(cfg)
    with DefaultScope.overwrite_default_scope(scope), _ZeroWeights():
        model = MODELS.build(copy.deepcopy(cfg.model)).eval()
    for module in model.modules():
        if isinstance(module, MultiLevelAttention):
            module.backend = "sdpa"
    counter = _FlopCounter()
    with ExitStack() as stack:
        stack.enter_context(DefaultScope.overwrite_default_scope(scope))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_deformable_convs(counter))
        stack.enter_context(
            mock.patch("torch.backends.mha._is_fastpath_enabled", False)
        )
        parts = _parts(model)
        for name, module in parts.items():
            stack.enter_context(_followed(module, name, counter))
        stack.enter_context(counter)
        _forward(model, torch.zeros(1, 3, height, width), scope)
    return Complexity(
        height=height,
        width=width,
        params=_num_params(model),
        flops=counter.total,
        product_flops=counter.products,
        parts={
            name: Part(_num_params(module), counter.by_part[name])
            for name, module in parts.items()
        },
    )


def _scope(cfg: Config) -> str:
    scope = cfg.get("default_scope")
    if scope not in SCOPES:
        raise ValueError(f"its default_scope must be one of {SCOPES}, got {scope!r}")
    return scope


def _find_crop(node: Any) -> int | tuple[int, int] | None:
    """The size to which a training pipeline, however nested, crops."""
    if isinstance(node, dict):
        key = _CROPS.get(str(node.get("type")).rpartition(".")[2])
        if key in node:
            return node[key]
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        found = (crop for child in node if (crop := _find_crop(child)) is not None)
        return next(found, None)
    return None


class _ZeroWeights(TorchDispatchMode):
    """While it is on, what would be drawn at random is zero: fast and reproducible."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._overloadpacket in _RANDOM_FILLS:
            return args[0].zero_()
        return func(*args, **kwargs or {})


class _FlopCounter(TorchDispatchMode):
    """Counts convolutions and products, and puts zeros in their place.

    Attributes:
        by_part: Multiply-adds by the name on top of ``path``.
        products: Multiply-adds of products of two activations.
        path: Names of the parts that are running, the innermost last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_part: Counter[str] = Counter()
        self.products = 0
        self.path = [""]

    @property
    def total(self) -> int:
        return self.by_part.total()

    def add(self, multiply_adds: int) -> None:
        self.by_part[self.path[-1]] += multiply_adds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in _FORMULAS:
            return func(*args, **kwargs)
        shapes = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        out = func(*shapes[0], **shapes[1])
        # PyTorch's formulas count multiplications and additions singly.
        multiply_adds = _FORMULAS[packet](*args, **kwargs, out_val=out) // 2
        self.add(multiply_adds)
        if packet in _PRODUCTS:
            self.products += multiply_adds
        return tree_map_only(
            Tensor, lambda t: torch.zeros(t.shape, dtype=t.dtype, device="cpu"), out
        )


def _parts(model: nn.Module) -> dict[str, nn.Module]:
    """A model's modules with parameters; a container of heads is taken apart."""
    parts = {}
    for name, module in model.named_children():
        inside = {name: module}
        if name == "roi_head":
            inside = {f"{name}.{key}": part for key, part in module.named_children()}
        parts.update({key: part for key, part in inside.items() if _num_params(part)})
    return parts


@contextmanager
def _followed(module: nn.Module, name: str, counter: _FlopCounter) -> Iterator[None]:
    """Tell the counter while a module, or an entry of a module list, is running."""
    entries = module if isinstance(module, nn.ModuleList) else [module]
    with ExitStack() as stack:
        for entry in entries:
            # Not by hooks: the libraries also call forward() itself.
            forward = _named(entry.forward, name, counter)
            stack.enter_context(mock.patch.object(entry, "forward", forward))
        yield


def _named(
    forward: Callable[..., Any], name: str, counter: _FlopCounter
) -> Callable[..., Any]:
    @functools.wraps(forward)
    def wrapper(*args, **kwargs):
        counter.path.append(name)
        try:
            return forward(*args, **kwargs)
        finally:
            counter.path.pop()

    return wrapper


@contextmanager
def _deformable_convs(counter: _FlopCounter) -> Iterator[None]:
    """Count MMCV's deformable convolutions, whose calls PyTorch does not see."""
    if importlib.util.find_spec("mmcv") is None:
        yield
        return
    from mmcv.ops import deform_conv, modulated_deform_conv

    def counted(weight_index: int, output_index: int) -> Callable[..., None]:
        def forward(*args, **kwargs) -> None:
            weight, output = args[weight_index], args[output_index]
            counter.add(output.numel() * math.prod(weight.shape[1:]))
            output.zero_()

        return forward

    with (
        mock.patch.object(deform_conv.ext_module, "deform_conv_forward", counted(1, 3)),
        mock.patch.object(
            modulated_deform_conv.ext_module,
            "modulated_deform_conv_forward",
            counted(1, 6),
        ),
    ):
        yield


def _num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _forward(model: nn.Module, image: Tensor, scope: str) -> None:
    if scope != "mmdet":
        model(image, mode="tensor")
        return
    from mmdet.structures import DetDataSample

    shape = tuple(image.shape[-2:])
    metainfo = dict(
        img_shape=shape,
        ori_shape=shape,
        pad_shape=shape,
        batch_input_shape=shape,
        scale_factor=(1.0, 1.0),
    )
    samples = [DetDataSample(metainfo=metainfo)]
    if getattr(model, "roi_head", None) is None:
        model(image, samples, mode="tensor")
        return
    _fix_numbers(model, shape)
    features = model.extract_feat(image)
    proposals = model.rpn_head.predict(features, samples, rescale=False)
    model.roi_head.predict(features, proposals, samples, rescale=False)


def _fix_numbers(model: nn.Module, shape: tuple[int, int]) -> None:
    """Let a two-stage detector find the same number of boxes in every image."""
    model.rpn_head.predict_by_feat = lambda *_, **__: [_boxes(PROPOSALS, shape)]
    roi_head = model.roi_head
    box_head = roi_head.bbox_head
    if isinstance(box_head, nn.ModuleList):
        box_head = box_head[-1]
    box_head.predict_by_feat = lambda *_, **__: [_boxes(DETECTIONS, shape)]
    if not roi_head.with_mask:
        return
    mask_head = roi_head.mask_head
    for head in mask_head if isinstance(mask_head, nn.ModuleList) else [mask_head]:
        # Pasting masks into the image takes long and is not counted.
        head.predict_by_feat = lambda *_, **__: [_boxes(0, shape)]


def _boxes(number: int, shape: tuple[int, int]) -> InstanceData:
    """Boxes of a quarter of the image's sides in a row along its diagonal."""
    corner = torch.linspace(0, 0.75, number)[:, None]
    size = torch.tensor([shape[1], shape[0]])
    return InstanceData(
        bboxes=torch.cat((corner * size, (corner + 0.25) * size), dim=1),
        scores=torch.ones(number),
        labels=torch.zeros(number, dtype=torch.long),
    )
