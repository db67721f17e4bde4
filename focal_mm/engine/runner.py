"""MMEngine's Runner, with our rule for what it loads and whole files that it saves."""

import os
import re
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.runner import Runner as MMEngineRunner
from torch import distributed as dist
from torch import nn

from focal_mm.checkpoint.read import read_checkpoint
from focal_mm.checkpoint.rule import load_weights, weights_for
from focal_mm.engine.errors import LostError
from focal_mm.engine.files import replacing
from focal_mm.engine.hooks import StopHook
from focal_mm.engine.resume import check_resumable


class Runner(MMEngineRunner):
    """Loads checkpoints by :func:`focal_mm.checkpoint.rule.load_weights`.

    ``allow_partial=True`` in the config lets a run that does not resume load what fits.
    """

    def train(self) -> nn.Module:
        """As MMEngine's, but ends in good order at SIGTERM.

        Raises:
            focal_mm.engine.errors.StoppedError: After SIGTERM.
            focal_mm.engine.errors.LostError: If another process has ended.
        """
        if is_main_process():
            # What processes have left that were killed while they wrote.
            for partial in Path(self.work_dir).glob(".*.partial.pth"):
                partial.unlink()
        stop = StopHook()
        self.register_hook(stop)
        try:
            with stop.listening():
                return super().train()
        except RuntimeError as error:
            # gloo has no class of its own for it.
            is_gloo = re.search("gloo.*(closed|reset) by peer", str(error), re.DOTALL)
            if not is_gloo and not isinstance(error, dist.DistBackendError):
                raise
            reason = str(error).splitlines()[0]
            raise LostError(f"another process has ended: {reason}") from error

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", **unused: Any
    ) -> dict[str, Any]:
        """As MMEngine's, but refuses what would leave weights random.

        Raises:
            focal_mm.checkpoint.CheckpointError: If the file cannot be read or does not
                fit the model.
        """
        checkpoint = read_checkpoint(filename, map_location)
        if self._resume:
            check_resumable(checkpoint, filename, self.cfg)
        # EMAHook loads them too.
        checkpoint["state_dict"] = weights_for(self.model, checkpoint, filename)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        allow_partial = self.cfg.get("allow_partial", False) and not self._resume
        notes = load_weights(self.model, checkpoint, filename, allow_partial)
        self._has_loaded = True
        for note in notes:
            self.logger.warning(note)
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint

    @master_only
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, **kwargs: Any
    ) -> None:
        """As MMEngine's; on a local disk the file is there whole or not at all.

        Raises:
            focal_mm.engine.UserError: If it cannot be written.
        """
        if "://" in out_dir or kwargs.get("backend_args"):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        with replacing(Path(out_dir, filename)) as partial:
            super().save_checkpoint(str(partial.parent), partial.name, *args, **kwargs)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
