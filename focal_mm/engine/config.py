"""Reading configs and walking through them."""

import difflib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from focal_mm.engine.errors import UserError

KEYS = frozenset(
    (
        *inspect.signature(Runner).parameters,
        # Read from the config by the Runner, by reading it, and by other runners.
        *("activation_checkpointing", "compile", "custom_imports", "deprecation"),
        *("detect_anomalous_params", "efficient_conv_bn_eval", "env_cfg"),
        *("find_unused_parameters", "model_wrapper_cfg", "runner_type", "strategy"),
        *("sync_bn", "tta_model", "tta_pipeline"),
    )
)
"""Top-level keys of a config that mean something; others are its own variables."""

# difflib's ratio. Variables of libraries' configs stay below: test_pipeline.
_LIKE_A_KEY = 0.885


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read the config of a model and change some of its settings.

    ``init_cfg.checkpoint=PATH`` alone means pretrained weights.

    Args:
        path: Config file.
        options: Dotted keys and values, as ``--cfg-options`` parses them.

    Raises:
        UserError: If the file or an option does not make a config of a model.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no config file {path}")
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        # Whatever its code raises, it is the config that must be changed.
        raise UserError(
            f"{path} is not a readable config: {describe(error)}"
        ) from error
    own = set(cfg)
    try:
        cfg.merge_from_dict(dict(options or {}))
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"--cfg-options do not fit {path}: {describe(error)}") from None
    _check_keys(cfg, own, path)
    if not isinstance(cfg.get("model"), dict):
        raise UserError(f"{path} is not a config to run: it has no model")
    for _, node in walk(cfg.model):
        init_cfg = node.get("init_cfg")
        if isinstance(init_cfg, dict) and "checkpoint" in init_cfg:
            init_cfg.setdefault("type", "Pretrained")
    return cfg


def _check_keys(cfg: Config, own: set[str], path: str | Path) -> None:
    """Name misspelt top-level keys: MMEngine ignores what it does not know.

    Args:
        cfg: The config with its options.
        own: Keys that it has without them. A file may have variables, unless they look
            like a key; an option that sets one that no file has has no effect.
        path: Of the file.
    """
    for key in sorted(set(cfg) - KEYS):
        cutoff = _LIKE_A_KEY if key in own else 0.6
        meant = difflib.get_close_matches(key, KEYS, n=1, cutoff=cutoff)
        if meant or key not in own:
            hint = f", {meant[0]} is the nearest" if meant else ""
            where = path if key in own else "--cfg-options"
            raise UserError(f"{where}: there is no key {key}{hint}")


def walk(node: Any, key: str = "") -> Iterator[tuple[str, dict]]:
    """All dicts within a config, itself included, from the outside in.

    Args:
        node: A config or a part of one.
        key: Its own dotted key.

    Yields:
        Dotted keys, as ``--cfg-options`` takes them, and the dicts themselves.
    """
    if isinstance(node, dict):
        yield key, node
        children = list(node.items())
    elif isinstance(node, (list, tuple)):
        children = list(enumerate(node))
    else:
        return
    for name, child in children:
        yield from walk(child, f"{key}.{name}" if key else str(name))


def type_name(kind: Any) -> str:
    """Name of a config's ``type``, which may be a string or a class."""
    return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]


def describe(error: Exception) -> str:
    """An exception in one line."""
    place = ""
    if isinstance(error, SyntaxError) and error.lineno:
        place = f", line {error.lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
