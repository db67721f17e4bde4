"""Checks before a run: an error in seconds instead of minutes."""

from focal_mm.engine.checks.classes import check_classes, class_numbers
from focal_mm.engine.checks.explain import explained
from focal_mm.engine.checks.preflight import (
    check_checkpoint,
    check_library,
    check_test,
    check_train,
    checkpoints_of_training,
)
from focal_mm.engine.checks.start import rehearse, run

__all__ = [
    "check_checkpoint",
    "check_classes",
    "check_library",
    "check_test",
    "check_train",
    "checkpoints_of_training",
    "class_numbers",
    "explained",
    "rehearse",
    "run",
]
