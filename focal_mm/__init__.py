"""Focal Transformers for OpenMMLab: one backbone, any input size.

Importing the package registers :class:`focal_mm.models.FocalTransformer` in MMEngine's
root registry, where mmdet, mmseg and mmpretrain find it.
"""

from focal_mm.version import __version__

try:
    import mmengine  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "focal_mm needs MMEngine: install 'focal_mm[engine]' (maintained family, "
        "onedl-mmengine) or keep the mmengine that your OpenMMLab libraries use"
    ) from error

from focal_mm.models import FocalTransformer

__all__ = ["FocalTransformer", "__version__"]
