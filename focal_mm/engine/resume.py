"""Where a training run starts: anew, or from which checkpoint."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from focal_mm.checkpoint import CheckpointError, read_checkpoint
from focal_mm.checkpoint.read import check_finite, state_dict_of
from focal_mm.engine.errors import UserError

# As CheckpointHook and StopHook name them; those of the best score are weights alone.
_CHECKPOINT = re.compile(r"(?![.]|best_).*_\d+\.pth")


def find_start(
    cfg: Config, resume: str | None, overwrite: bool
) -> tuple[str | None, list[str]]:
    """The checkpoint that a run goes on from.

    Args:
        cfg: Config with its work dir.
        resume: Value of ``--resume``: a checkpoint; empty or 'auto' for the newest
            whole one of the work dir; None without the option.
        overwrite: Whether a run may start anew where there are checkpoints.

    Returns:
        Its path, or None to start anew; lines for the log.

    Raises:
        UserError: If there are checkpoints that the run would overwrite.
        CheckpointError: If the named checkpoint cannot be resumed from.
    """
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    existing = _checkpoints(cfg)
    if restarted and existing:
        resume = "auto"
    if resume is None:
        if existing and not (overwrite or restarted):
            raise UserError(
                f"{cfg.work_dir} holds checkpoints ({Path(existing[0]).name}): go on "
                "from them by --resume, take another --work-dir, or start anew by "
                "--overwrite, which removes them"
            )
        return None, []
    if resume not in ("", "auto"):
        _check_whole(resume, cfg)
        return resume, []
    damaged = []
    for path in existing:
        try:
            _check_whole(path, cfg)
        except CheckpointError as error:
            damaged.append(str(error))
        else:
            return path, [*damaged, f"--resume: going on from {path}"]
    if damaged:
        raise UserError(f"--resume: no checkpoint is whole: {'; '.join(damaged)}")
    # load_from stays: a job that always says --resume may start by it.
    return None, [f"--resume: no checkpoint in {cfg.work_dir}, starting anew"]


def remove_checkpoints(cfg: Config) -> None:
    """Remove what an earlier run has left, so that none of it is resumed later."""
    for path in (Path(cfg.work_dir, "last_checkpoint"), *_files(cfg)):
        path.unlink(missing_ok=True)


def check_resumable(checkpoint: Mapping[str, Any], path: str, cfg: Config) -> None:
    """Check that a checkpoint holds the state of a run, not weights alone.

    Raises:
        CheckpointError: If not.
    """
    needed = ["meta", "message_hub", "optimizer"]
    if cfg.get("param_scheduler"):
        needed.append("param_schedulers")
    missing = [name for name in needed if name not in checkpoint]
    if missing:
        raise CheckpointError(
            f"{path} cannot be resumed from: it holds no {', '.join(missing)}; to "
            f"start from its weights use --cfg-options load_from={path}"
        )


def _check_whole(path: str, cfg: Config) -> None:
    # What is remote is checked when it is loaded.
    if "://" not in path:
        checkpoint = read_checkpoint(path)
        check_resumable(checkpoint, path, cfg)
        check_finite(state_dict_of(checkpoint, path), path)


def _files(cfg: Config) -> list[Path]:
    """The files of a run's checkpoints."""
    folders = [Path(cfg.work_dir)]
    out_dir = ((cfg.get("default_hooks") or {}).get("checkpoint") or {}).get("out_dir")
    if out_dir:
        folders.append(Path(out_dir, folders[0].absolute().name))
    paths = (path for folder in folders for path in folder.glob("*.pth"))
    return [path for path in paths if _CHECKPOINT.fullmatch(path.name)]


def _checkpoints(cfg: Config) -> list[str]:
    """Checkpoints of a run, the newest first.

    That is the one which ``last_checkpoint`` names; if it is not whole, or none is
    named, the one that was written last.
    """
    named = Path(cfg.work_dir, "last_checkpoint")
    last = Path(named.read_text().strip() if named.is_file() else "")
    files = sorted(
        _files(cfg),
        # By its name, as the folder may have been moved since.
        key=lambda path: (path.name == last.name, path.stat().st_mtime_ns),
        reverse=True,
    )
    return [str(path) for path in files]
