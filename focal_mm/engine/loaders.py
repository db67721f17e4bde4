"""Reading the checkpoints that users name, without executing what is in them."""

from mmengine.runner.checkpoint import CheckpointLoader

from focal_mm.checkpoint import read_checkpoint

# Local files, downloads and object stores, as MMEngine's registry spells them.
_SCHEMES = ("", "http://", "https://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://")


def use_safe_loaders() -> None:
    """Make MMEngine read checkpoints by :func:`focal_mm.checkpoint.read_checkpoint`.

    MMEngine's own loaders fall back to unpickling arbitrary objects where the safe
    way fails.
    """
    CheckpointLoader.register_scheme(_SCHEMES, load_from_safe_reader, force=True)


# MMEngine logs the name less "load_from_", and passes both arguments.
def load_from_safe_reader(filename: str, map_location: str | None = None) -> dict:
    """Read a checkpoint.

    Raises:
        focal_mm.checkpoint.CheckpointError: If it cannot be read safely.
    """
    return read_checkpoint(filename, map_location=map_location or "cpu")
