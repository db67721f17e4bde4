"""The task libraries: all that the command lines must know to tell them apart.

A new task library is one entry of :data:`LIBRARIES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mmengine.config import Config

from focal_mm.engine.errors import UserError


@dataclass(frozen=True)
class Library:
    """What is particular to a task library.

    Attributes:
        scope: Its ``default_scope``, which is also the name of its package.
        extra: The extra of ``focal_mm`` that installs it.
        draw: What makes its visualization hook draw every image.
        show_dir: The hook's argument for a folder of pictures; None where the
            visualizer's ``save_dir`` decides.
        dump_metric: The metric that dumps predictions into a file.
        inferencer: Its inferencer's full name.
    """

    scope: str
    extra: str
    draw: Mapping[str, Any]
    show_dir: str | None
    dump_metric: str
    inferencer: str


_ALL = (
    Library(
        "mmdet",
        extra="det",
        draw={"draw": True},
        show_dir="test_out_dir",
        dump_metric="DumpDetResults",
        inferencer="mmdet.apis.DetInferencer",
    ),
    Library(
        "mmseg",
        extra="seg",
        draw={"draw": True},
        show_dir=None,
        dump_metric="DumpResults",
        inferencer="mmseg.apis.MMSegInferencer",
    ),
    Library(
        "mmpretrain",
        extra="cls",
        draw={"enable": True, "interval": 1},
        show_dir="out_dir",
        dump_metric="DumpResults",
        inferencer="mmpretrain.apis.ImageClassificationInferencer",
    ),
)
LIBRARIES: Mapping[str, Library] = MappingProxyType({lib.scope: lib for lib in _ALL})
"""By ``default_scope``."""


def library_of(cfg: Config) -> Library:
    """The library of a config's ``default_scope``.

    Raises:
        UserError: If it is none of :data:`LIBRARIES`.
    """
    scope = cfg.get("default_scope")
    if scope not in LIBRARIES:
        raise UserError(
            f"the config's default_scope must be one of {', '.join(LIBRARIES)}, "
            f"got {scope}"
        )
    return LIBRARIES[scope]
