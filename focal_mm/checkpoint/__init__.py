"""Reading, converting and adapting checkpoints."""

from .errors import CheckpointError
from .read import read_checkpoint
from .released import convert_released, from_released_args

__all__ = [
    "CheckpointError",
    "convert_released",
    "from_released_args",
    "read_checkpoint",
]
