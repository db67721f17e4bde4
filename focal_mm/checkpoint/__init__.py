"""Reading, converting and adapting checkpoints."""

from focal_mm.checkpoint.errors import CheckpointError
from focal_mm.checkpoint.paddle import convert_paddle
from focal_mm.checkpoint.read import read_checkpoint
from focal_mm.checkpoint.released import convert_released, from_released_args
from focal_mm.checkpoint.swin import convert_swin

__all__ = [
    "CheckpointError",
    "convert_paddle",
    "convert_released",
    "convert_swin",
    "from_released_args",
    "read_checkpoint",
]
