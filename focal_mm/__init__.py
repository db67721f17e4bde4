"""Focal Transformers for OpenMMLab: one backbone, any input size.

Importing the package registers :class:`focal_mm.models.FocalTransformer` in MMEngine's
root registry, where mmdet, mmseg and mmpretrain find it. Without MMEngine there is
:mod:`focal_mm.ops`, the attention as a function of tensors.
"""

from focal_mm.version import __version__

try:
    import mmengine  # noqa: F401
except ModuleNotFoundError:

    def __getattr__(name: str) -> object:
        if name != "FocalTransformer":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        raise ModuleNotFoundError(
            "focal_mm.FocalTransformer needs MMEngine: install 'focal_mm[engine]' "
            "(maintained family, onedl-mmengine) or keep the mmengine that your "
            "OpenMMLab libraries use"
        )
else:
    from focal_mm.models import FocalTransformer

__all__ = ["FocalTransformer", "__version__"]
