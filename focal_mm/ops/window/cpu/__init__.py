"""Focal attention for CPUs, in plain PyTorch."""

from focal_mm.ops.window.cpu.backend import CPU

__all__ = ["CPU"]
