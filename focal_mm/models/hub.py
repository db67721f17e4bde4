"""Models in the layout of the Hugging Face Hub: config.json and model.safetensors.

The layout is timm's, so that ``timm.create_model`` reads it too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from focal_mm.checkpoint import CheckpointError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

HUB, FOLDER = "hf-hub:", "local-dir:"
"""Prefixes of a model's name, as timm spells them."""

TIMM_NAMES = {"in_chans": "in_channels", "proj_drop_rate": "drop_rate"}
"""timm's names of arguments that have another one here."""

_TIMM_ONLY = ("num_classes", "drop_rate", "global_pool", "features_only")
"""Arguments that timm stores beside the backbone's, and that do not change it."""


class HubModel(NamedTuple):
    """What a repository or folder of this layout holds.

    Attributes:
        name: Of the model, a key of :data:`focal_mm.models.presets.MODELS`.
        num_classes: Of the classifier; 0 if it is none.
        arguments: Of the backbone, where they differ from the name's.
        weights: File with the weights.
    """

    name: str
    num_classes: int
    arguments: dict[str, Any]
    weights: Path


def is_hub_name(name: str) -> bool:
    """Whether a name leads to a repository or folder of this layout."""
    return name.startswith((HUB, FOLDER))


def find(name: str) -> HubModel:
    """Read the config of a model and find its weights.

    Args:
        name: ``hf-hub:USER/NAME``, with ``@REVISION`` if wanted, or
            ``local-dir:FOLDER``.

    Raises:
        CheckpointError: If there is no such model or its config cannot be read.
    """
    path = _file(name, CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        arguments = config.get("model_args", {})
        return HubModel(
            config["architecture"],
            config.get("num_classes", 1000),
            {
                TIMM_NAMES.get(key, key): value
                for key, value in arguments.items()
                if key not in _TIMM_ONLY
            },
            _file(name, WEIGHTS),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{name}: {CONFIG} does not describe a model ({type(error).__name__}: "
            f"{error})"
        ) from None


def _file(name: str, filename: str) -> Path:
    """A file of a model, from the Hub's cache or the Hub, or in a folder."""
    if name.startswith(FOLDER):
        path = Path(name.removeprefix(FOLDER)).expanduser() / filename
        if not path.is_file():
            raise CheckpointError(f"{name}: there is no {filename} in this folder")
        return path
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{name}: reading from the Hub needs the package huggingface_hub "
            "(pip install 'focal_mm[hub]')"
        ) from None
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        return Path(hf_hub_download(repository, filename, revision=revision or None))
    # Its own errors, those of three HTTP libraries, and of bad names: ValueError.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{name}: {filename} cannot be had: {reason}") from None


def config_of(
    name: str, num_classes: int, arguments: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """The contents of config.json.

    Args:
        name: Of the model.
        num_classes: Of the classifier; 0 if it is none.
        arguments: Of the backbone, where they differ from the name's.
        more: Other entries that timm knows, as ``pretrained_cfg``.
    """
    theirs = {ours: name for name, ours in TIMM_NAMES.items()}
    return {
        "architecture": name,
        "num_classes": num_classes,
        "model_args": {theirs.get(key, key): value for key, value in arguments.items()},
        **more,
    }
