"""Focal Transformers for OpenMMLab: one backbone, any input size.

Importing the package registers :class:`focal_mm.models.FocalTransformer` in MMEngine's
root registry, where mmdet, mmseg and mmpretrain find it. :func:`create_model` builds
published models for plain PyTorch; timm finds them by the same names. Without MMEngine
there is :mod:`focal_mm.ops`, the attention as a function of tensors.
"""

from focal_mm.version import __version__

_LOADERS = ("load_classifier", "load_detector", "load_segmentor")

try:
    import mmengine  # noqa: F401
except ModuleNotFoundError:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        raise ModuleNotFoundError(
            f"focal_mm.{name} needs MMEngine: install 'focal_mm[engine]' "
            "(maintained family, onedl-mmengine) or keep the mmengine that your "
            "OpenMMLab libraries use"
        )
else:
    from focal_mm.models import FocalTransformer, create_model

    def __getattr__(name: str) -> object:
        if name not in _LOADERS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # Only now: the command lines' half of the package is slow to import.
        from focal_mm.engine import inferencers

        return getattr(inferencers, name)


__all__ = ["FocalTransformer", "__version__", "create_model", *_LOADERS]
