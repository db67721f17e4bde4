"""Slurm's description of a task, as ``torch.distributed`` needs it."""

import os
import subprocess

from focal_mm.engine.errors import UserError

NEEDED = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_NODELIST")


def take_slurm_environment() -> None:
    """Set torchrun's environment variables from those that ``srun`` sets.

    ``MASTER_ADDR`` and ``MASTER_PORT`` stay where the user has set them; by default
    they are the job's first machine and 29500, as MMEngine has it.

    Raises:
        UserError: If the first machine cannot be found out.
    """
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "WORLD_SIZE": os.environ["SLURM_NTASKS"],
        # Set where srun was told it, as slurm_train.sh does.
        "LOCAL_WORLD_SIZE": os.environ.get("SLURM_NTASKS_PER_NODE", "1"),
    }
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_machine(os.environ["SLURM_NODELIST"])


def _first_machine(nodes: str) -> str:
    """The first of ``node[07-08,11]``."""
    try:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", nodes],
            capture_output=True,
            text=True,
            check=True,
        )
        return listed.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        raise UserError(
            f"scontrol does not tell the machines of SLURM_NODELIST={nodes}: set "
            "MASTER_ADDR to the first"
        ) from None
