"""The error of everything that reads checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read or is not of this model; one line says why."""
