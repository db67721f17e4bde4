"""Files and folders that are there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from focal_mm.engine.errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file or folder under another name and give it its own at the end.

    Args:
        path: What to write; its folder is made where missing.

    Yields:
        A path of the same suffix in the same folder. If the block raises, it is removed
        and what was at ``path`` stays.

    Raises:
        UserError: If it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            partial.unlink()
