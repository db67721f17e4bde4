"""What ``tools/publish_checkpoint.py`` does: a model for the Hugging Face Hub.

A folder of config.json, which :func:`focal_mm.create_model` and timm read, and
model.safetensors, the weights and nothing else; README.md is the model's card, and
config.py what the other tools take for a whole detector, segmentor or classifier.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS as REGISTRY
from mmengine.registry import DefaultScope
from torch import Tensor

from focal_mm.checkpoint import read_checkpoint
from focal_mm.checkpoint.layouts import to_openmmlab
from focal_mm.checkpoint.parts import BACKBONE
from focal_mm.checkpoint.read import check_finite, state_dict_of, unwrapped
from focal_mm.checkpoint.rule import load_weights
from focal_mm.engine.config import load_config, type_name, walk
from focal_mm.engine.errors import UserError
from focal_mm.engine.files import replacing
from focal_mm.engine.libraries import library_of
from focal_mm.layers import ATTENTIONS
from focal_mm.models import MODELS, FocalTransformer, create_model, hub

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_OF_TRAINING = {
    *("init_cfg", "with_cp", "frozen_stages", "norm_eval", "attn_backend"),
    *("drop_rate", "attn_drop_rate", "drop_path_rate"),
}
"""Arguments of the backbone that change nothing of what it computes in eval mode."""

_PIPELINE_TAGS = {
    "mmdet": "object-detection",
    "mmseg": "image-segmentation",
    "mmpretrain": "image-classification",
}


@dataclass(frozen=True)
class Published:
    """What is said of a model beside its weights.

    Attributes:
        name: Of :data:`focal_mm.models.MODELS`.
        num_classes: Of its classifier; 0 if it is none.
        arguments: Of the backbone, where they differ from the name's.
        tag: Task, in the Hub's terms.
        data: Mean, standard deviation and size of images, in timm's terms.
        cfg: OpenMMLab's config, if there is one.
    """

    name: str
    num_classes: int
    arguments: dict[str, Any]
    tag: str
    data: dict[str, Any]
    cfg: Config | None


def publish(
    model: str,
    checkpoint: str,
    folder: Path,
    *,
    options: Mapping[str, Any] | None = None,
    metrics: Path | None = None,
    backbone_only: bool = False,
    repository: str | None = None,
) -> None:
    """Write a model into a new folder in the Hub's layout.

    Args:
        model: OpenMMLab config file, or a name that :func:`focal_mm.create_model`
            takes.
        checkpoint: What training left; all layouts that focal_mm reads.
        folder: To be made.
        options: Changes of the config; for a name, arguments of its backbone.
        metrics: JSON file of names and numbers, as ``tools/test.py`` writes it.
        backbone_only: Leave necks and heads out.
        repository: ``USER/NAME`` of the Hub, for the card's example.

    Raises:
        UserError: If an input does not fit, or the folder is there already or cannot
            be written.
        focal_mm.checkpoint.CheckpointError: If the checkpoint cannot be read.
    """
    if folder.exists():
        raise UserError(f"{folder} exists: remove it or choose another name")
    results = _read_metrics(metrics)
    loaded = read_checkpoint(checkpoint)
    state = unwrapped(state_dict_of(loaded, checkpoint), known=())
    state = to_openmmlab(state) or state
    if not any(name.startswith(BACKBONE) for name in state):
        state = {BACKBONE + name: value for name, value in state.items()}
    if backbone_only:
        state = {k: v for k, v in state.items() if k.startswith(BACKBONE)}
    if model in MODELS:
        described = _of_name(model, options or {}, state)
    else:
        described = _of_config(load_config(model, options), state)
    _check_weights(described, state, checkpoint)
    cfg = None if backbone_only else described.cfg
    if cfg is not None:
        _check_whole(cfg, state, checkpoint)
    else:
        check_finite(state, checkpoint)
    classes = ((loaded.get("meta") or {}).get("dataset_meta") or {}).get("classes")
    with replacing(folder) as partial_folder:
        partial_folder.mkdir()
        _write_weights(state, partial_folder / hub.WEIGHTS)
        (partial_folder / hub.CONFIG).write_text(_config(described, classes))
        card = _card(described, results, repository or f"USER/{folder.name}")
        (partial_folder / "README.md").write_text(card, encoding="utf-8")
        if cfg is not None:
            _shareable(cfg, classes).dump(partial_folder / "config.py")
    size = sum(value.nbytes for value in state.values()) / 1e6
    print(f"{folder}: {len(state)} tensors, {size:.0f} MB; see its README.md")


def push(api: HfApi, folder: Path, repository: str, private: bool) -> None:
    """Upload a folder to the Hub as one commit; a card that is there stays.

    Args:
        api: Of :func:`hub_api`.
        folder: As :func:`publish` writes it.
        repository: ``USER/NAME``; made where missing.
        private: Whether a new repository is hidden from others.

    Raises:
        UserError: If the Hub cannot be reached or refuses.
    """
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        has_card = api.file_exists(repository, "README.md")
        found = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Weights published by focal_mm",
            ignore_patterns=["README.md"] if has_card else None,
        )
    # Its own errors and those of the HTTP library below it.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder} could not be pushed ('hf upload {repository} {folder}' tries "
            f"again): {reason}"
        ) from None
    print(f"pushed: {found}")


def hub_api() -> HfApi:
    """The Hub's client.

    Raises:
        UserError: If it is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError:
        raise UserError(
            "--push needs the package huggingface_hub (pip install 'focal_mm[hub]')"
        ) from None
    return HfApi(library_name="focal_mm")


def _read_metrics(path: Path | None) -> dict[str, float]:
    if path is None:
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable JSON file: {error}") from None
    fits = isinstance(results, dict) and all(
        isinstance(value, int | float) for value in results.values()
    )
    if not fits:
        raise UserError(f"{path} must hold one object of names and numbers")
    return results


def _of_name(
    name: str, options: Mapping[str, Any], state: Mapping[str, Tensor]
) -> Published:
    changed = Config()
    changed.merge_from_dict(dict(options))
    arguments = changed.to_dict()
    head = state.get("head.fc.bias")
    stem = state.get(f"{BACKBONE}patch_embed.proj.weight")
    channels = 3 if stem is None else stem.shape[1]
    if channels != 3:
        arguments.setdefault("in_channels", channels)
    num_classes = 0 if head is None else len(head)
    tag = "image-classification" if num_classes else "image-feature-extraction"
    return Published(name, num_classes, arguments, tag, {}, None)


def _of_config(cfg: Config, state: Mapping[str, Tensor]) -> Published:
    backbone = cfg.model.get("backbone") or {}
    if type_name(backbone.get("type", "")) != FocalTransformer.__name__:
        raise UserError("the config's model.backbone is no FocalTransformer")
    library = library_of(cfg)
    arguments = {k: v for k, v in backbone.items() if k != "type"}
    name, changed = _nearest_name(_complete(arguments))
    num_classes, data = 0, {}
    if not library.dense:
        num_classes = cfg.model.get("head", {}).get("num_classes", 0)
        with suppress(UserError):
            data["input_size"] = library.table_shape(cfg)
        if "head.fc.weight" not in state:
            num_classes = 0
    if num_classes:
        changed.pop("out_indices", None)
    preprocessor = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor")
    for key in ("mean", "std"):
        if preprocessor and preprocessor.get(key):
            data[key] = [round(value / 255, 6) for value in preprocessor[key]]
    return Published(
        name, num_classes, changed, _PIPELINE_TAGS[library.scope], data, cfg
    )


def _complete(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of the backbone that matter, those left out by their defaults."""
    try:
        bound = inspect.signature(FocalTransformer).bind(**arguments)
    except TypeError as error:
        raise UserError(f"the config's model.backbone: {error}") from None
    bound.apply_defaults()
    full = {k: v for k, v in bound.arguments.items() if k not in _OF_TRAINING}
    options = ATTENTIONS[full["key_selection"]].options
    full.update({k: v for k, v in options.items() if full[k] is None})
    return json.loads(json.dumps(full))


def _nearest_name(arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name from which the fewest arguments differ, and those."""
    differences = {}
    for name, preset in MODELS.items():
        known = _complete(preset)
        differences[name] = {k: v for k, v in arguments.items() if v != known[k]}
    return min(differences.items(), key=lambda item: len(item[1]))


def _check_weights(
    described: Published, state: Mapping[str, Tensor], path: str
) -> None:
    """Raise unless the weights are those of the model, size by size."""
    as_maps = not described.num_classes
    try:
        with torch.device("meta"):
            model = create_model(
                described.name,
                features_only=as_maps,
                num_classes=described.num_classes,
                **described.arguments,
            )
    except (TypeError, ValueError) as error:
        raise UserError(f"{described.name}: {error}") from None
    wanted = model.state_dict()
    for name, value in wanted.items():
        if name not in state:
            # Which outputs have norms is no matter of the network.
            if as_maps and name.startswith(f"{BACKBONE}norm"):
                continue
            raise UserError(f"{path} does not fit {described.name}: it lacks {name}")
        if state[name].shape != value.shape:
            raise UserError(
                f"{path} does not fit {described.name}: {name} is "
                f"{tuple(state[name].shape)}, the model's {tuple(value.shape)}"
            )


def _check_whole(cfg: Config, state: Mapping[str, Tensor], path: str) -> None:
    """Raise unless a config's model gets all its weights; the library must be there."""
    with DefaultScope.overwrite_default_scope(library_of(cfg).scope):
        model = REGISTRY.build(copy.deepcopy(cfg.model))
    for note in load_weights(model, {"state_dict": state}, path):
        print(note)


def _write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    # It takes no views and none that share memory.
    tensors = {
        name: value.detach().clone().contiguous() for name, value in state.items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    # It lets nobody else read the file.
    path.chmod(path.parent.stat().st_mode & 0o666)


def _config(described: Published, classes: Any) -> str:
    data = {
        "input_size": (224, 224),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": "bicubic",
        "num_classes": described.num_classes,
        **described.data,
    }
    data["input_size"] = (
        described.arguments.get("in_channels", 3),
        *data["input_size"],
    )
    if described.num_classes:
        data["classifier"] = "head.fc"
    more: dict[str, Any] = {"pretrained_cfg": data}
    if classes and len(classes) == described.num_classes:
        more["label_names"] = list(classes)
    config = hub.config_of(
        described.name, described.num_classes, described.arguments, **more
    )
    return json.dumps(config, indent=2) + "\n"


def _shareable(cfg: Config, classes: Any) -> Config:
    """The config without what is this machine's, and with the classes' names."""
    cfg = copy.deepcopy(cfg)
    for key in ("work_dir", "load_from", "resume", "launcher", "auto_resume"):
        cfg.pop(key, None)
    for _, node in walk(cfg.model):
        if isinstance(node.get("init_cfg"), dict) and "checkpoint" in node["init_cfg"]:
            node["init_cfg"] = None
    dataset = (cfg.get("test_dataloader") or {}).get("dataset")
    if dataset and classes:
        dataset["metainfo"] = {**(dataset.get("metainfo") or {}), "classes": classes}
    return cfg


def _card(described: Published, results: Mapping[str, float], repository: str) -> str:
    """The model's card: how to use it, its results, its config."""
    front = yaml.safe_dump(
        {
            "library_name": "focal_mm",
            "pipeline_tag": described.tag,
            "tags": ["focal-transformer", "timm"],
        },
        sort_keys=False,
    )
    more = "" if described.num_classes else ", features_only=True"
    lines = [
        f"---\n{front}---",
        f"# {repository.rpartition('/')[2]}",
        "[Focal Transformer](https://arxiv.org/abs/2107.00641), "
        f"`{described.name}` of focal_mm.",
        "## Use",
        "```python\nimport focal_mm\n\n"
        f'model = focal_mm.create_model("hf-hub:{repository}"{more})\n```',
    ]
    if described.cfg is not None:
        lines.append(
            "`config.py` and `model.safetensors` are config and checkpoint of the "
            "whole model for focal_mm's command lines."
        )
    if results:
        rows = "\n".join(f"| {name} | {_figure(v)} |" for name, v in results.items())
        lines += ["## Results", f"| Metric | Value |\n| --- | --: |\n{rows}"]
    text = json.dumps(described.arguments, indent=2)
    lines += ["## Config", f"Arguments beside the name:\n\n```json\n{text}\n```"]
    if described.cfg is not None:
        whole = Config({"model": _shareable(described.cfg, None).model}).pretty_text
        lines.append(f"```python\n{whole.strip()}\n```")
    return "\n\n".join(lines) + "\n"


def _figure(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else str(value)
