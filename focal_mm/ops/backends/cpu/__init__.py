"""Focal attention for CPUs, in plain PyTorch."""

from focal_mm.ops.backends.cpu.backend import CPU

__all__ = ["CPU"]
