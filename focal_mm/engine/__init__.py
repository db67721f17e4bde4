"""Glue between the command lines and MMEngine: options, checks, processes."""

from focal_mm.engine.errors import UserError

__all__ = ["UserError"]
