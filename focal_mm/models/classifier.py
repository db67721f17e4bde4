"""The backbone outside OpenMMLab: a classifier, and a list of maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from focal_mm.models.focal_transformer import FocalTransformer


class FeatureInfo(list[dict[str, Any]]):
    """What a model's maps are, a dict for each: ``num_chs``, ``reduction``, ``module``.

    Keys and methods are those of timm's class of this name.
    """

    def channels(self) -> list[int]:
        """Channels of the maps."""
        return [info["num_chs"] for info in self]

    def reduction(self) -> list[int]:
        """Strides of the maps, in pixels."""
        return [info["reduction"] for info in self]

    def module_name(self) -> list[str]:
        """Modules that the maps come from."""
        return [info["module"] for info in self]


def describe_stages(backbone: FocalTransformer) -> FeatureInfo:
    """Channels and strides of every stage that a backbone has."""
    stride = backbone.patch_embed.proj.stride[0]
    return FeatureInfo(
        {
            "index": stage,
            "num_chs": channels,
            "reduction": stride * 2**stage,
            "module": f"backbone.stages.{stage}",
        }
        for stage, channels in enumerate(backbone.num_features)
    )


class FocalFeatures(nn.Module):
    """The maps of a backbone as a list.

    Args:
        backbone: Its ``out_indices`` are the maps.

    Attributes:
        feature_info: Channels and strides of the maps.
    """

    def __init__(self, backbone: FocalTransformer) -> None:
        super().__init__()
        self.backbone = backbone
        stages = describe_stages(backbone)
        self.feature_info = FeatureInfo(stages[i] for i in backbone.out_indices)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass, or not."""
        _set_with_cp(self.backbone, enable)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute feature maps.

        Args:
            x: Image, (N, in_channels, H, W).

        Returns:
            Maps (N, C_i, ceil(H / stride_i), ceil(W / stride_i)), each after its norm.
        """
        return list(self.backbone(x))


class _Head(nn.Module):
    """Mean over the tokens, then a linear layer (paper, section 3.1)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.channels = channels
        self.drop = nn.Dropout(0.0)
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        self.fc: nn.Module = nn.Identity()
        if num_classes > 0:
            self.fc = nn.Linear(self.channels, num_classes)
            nn.init.trunc_normal_(self.fc.weight, std=0.02)
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(x.mean((2, 3)))
        return x if pre_logits else self.fc(x)


class FocalClassifier(nn.Module):
    """A backbone and the head of the released classifiers.

    Parameters have the names of an mmpretrain ImageClassifier's: ``backbone.…`` and
    ``head.fc.…``. The methods are those that timm's scripts ask of a model.

    Args:
        backbone: Its last output is classified.
        num_classes: Outputs of the head; 0 for none, so that the model returns what
            would enter it.
    """

    def __init__(self, backbone: FocalTransformer, num_classes: int = 1000) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.in_chans = backbone.patch_embed.proj.in_channels
        self.num_features = self.head_hidden_size = backbone.num_features[-1]
        self.feature_info = describe_stages(backbone)
        self.global_pool = "avg"
        self.head = _Head(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (N, in_channels, H, W) to the last map (N, C, H/32, W/32), normed."""
        return self.backbone(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last map to logits (N, num_classes), or to what enters the linear layer."""
        return self.head(x, pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Image (N, in_channels, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head.fc

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        """Start a new linear layer, on the device and of the dtype of the model.

        Args:
            num_classes: Its outputs; 0 for none.
            global_pool: 'avg' or None: there is no other pooling.

        Raises:
            ValueError: If it is another pooling.
        """
        check_global_pool(global_pool)
        self.num_classes = num_classes
        self.head.reset(num_classes)
        self.head.to(next(self.backbone.parameters()))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass, or not."""
        _set_with_cp(self.backbone, enable)

    def no_weight_decay(self) -> set[str]:
        """Names of the tables that are not decayed, as in the configs."""
        tables = ("absolute_pos_embed", "relative_position_bias_table")
        names = [name for name, _ in self.named_parameters()]
        return {name for name in names if any(table in name for table in tables)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm groups parameters, for layer-wise learning rates.

        The groups are those of :meth:`FocalTransformer.get_layer_depth`.
        """
        # A downsampling goes with the last block before it.
        blocks = [
            (rf"^backbone\.stages\.({stage})\.downsample", (depth - 1,))
            for stage, depth in enumerate(self.backbone.arch.depths)
        ]
        blocks.append((r"^backbone\.stages\.(\d+)\.blocks\.(\d+)", None))
        blocks.append((r"^backbone\.norm\d", (99999,)))
        return {
            "stem": r"^backbone\.(?:patch_embed|absolute_pos_embed)",
            "blocks": r"^backbone\.stages\.(\d+)" if coarse else blocks,
        }


def check_global_pool(global_pool: str | None) -> None:
    """Raise ValueError for a pooling that the released classifiers do not have."""
    if global_pool not in (None, "avg"):
        raise ValueError(f"global_pool must be 'avg', got {global_pool!r}")


def _set_with_cp(backbone: FocalTransformer, enable: bool) -> None:
    for stage in backbone.stages:
        stage.with_cp = enable
