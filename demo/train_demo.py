"""Train, evaluate and draw Mask R-CNN with Focal-Tiny on toy shapes, in minutes.

The steps are those of a real run and use the same commands: data, tools/dist_train.sh,
tools/dist_test.sh, pictures. A demo that was stopped goes on where it was; one that
was finished, or was made with other settings, starts over.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "focal_mm").is_dir():
    # A clone runs its own code, installed or not.
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.device import get_device  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from demo.toy.coco import CocoSpec, write_coco  # noqa: E402

CONFIG = ROOT / "demo/configs/mask_rcnn_focal_tiny_shapes.py"
MIN_BOX_AP50 = 0.30
"""Below it the detector has not learnt the task, and the demo fails."""

NUM_PICTURES = 12
_BATCH_PROCESSES = 2
_METRICS = {
    "box mAP": "coco/bbox_mAP",
    "box AP50": "coco/bbox_mAP_50",
    "mask mAP": "coco/segm_mAP",
    "mask AP50": "coco/segm_mAP_50",
}
_PROGRESS = re.compile(
    r"Iter\((?P<phase>\w+)\) +\[ *(?P<done>\d+)/(?P<all>\d+)\]"
    r".*?eta: (?P<eta>[\d:]+(?: days?, [\d:]+)?)(?:.*? loss: (?P<loss>[\d.naif]+))?"
)


class StepError(Exception):
    """Which step failed, why, and where its log is, in one line."""


@dataclass
class State:
    """What ``demo.json`` remembers of a demo.

    Attributes:
        settings: Digest of all that decides the result.
        finished: Whether the demo came to its closing table.
        seconds: Time spent in each step, over all calls.
    """

    settings: str
    finished: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


class Demo:
    """One demo in one folder.

    Args:
        out_dir: Folder of everything the demo makes.
        spec: The data set.
        cfg_options: Changes to the demo's config, as ``--cfg-options`` parses them.
    """

    def __init__(self, out_dir: Path, spec: CocoSpec, cfg_options: dict) -> None:
        self.out_dir = out_dir
        self.spec = spec
        self.data = out_dir / "data"
        self.train_dir = out_dir / "train"
        self.test_dir = out_dir / "test"
        self.pictures = out_dir / "pictures"
        self.state_file = out_dir / "demo.json"
        self.processes = num_processes()
        self.cfg = Config.fromfile(CONFIG)
        self.options = self._options(cfg_options)
        self.cfg.merge_from_dict(self.options)
        settings = [self.cfg.to_dict(), spec.to_dict(), get_device()]
        text = json.dumps(settings, sort_keys=True, default=str)
        self.state = State(hashlib.sha256(text.encode()).hexdigest())

    def _options(self, cfg_options: dict) -> dict:
        """Options for this folder and number of processes on top of the user's."""
        options = {}
        if self.data != ROOT / self.cfg.data_root:
            root = f"{self.data}/"
            annotations = os.path.relpath(
                self.cfg.test_evaluator.ann_file, self.cfg.data_root
            )
            options["train_dataloader.dataset.data_root"] = root
            options["test_dataloader.dataset.data_root"] = root
            options["test_evaluator.ann_file"] = root + annotations
        if self.processes != _BATCH_PROCESSES:
            # The schedule is made for so many images in a step.
            total = self.cfg.train_dataloader.batch_size * _BATCH_PROCESSES
            options["train_dataloader.batch_size"] = total // self.processes
        return options | cfg_options

    def prepare(self) -> str:
        """Read what an earlier call left and clear it where it cannot be used.

        Returns:
            What is going to be done.

        Raises:
            StepError: If the folder holds something else than a demo.
        """
        if not self.out_dir.exists() or not any(self.out_dir.iterdir()):
            self._save()
            return "a new demo"
        try:
            found = State(**json.loads(self.state_file.read_text()))
        except (OSError, ValueError, TypeError):
            raise StepError(
                f"{shown(self.out_dir)} is not empty and holds no demo: choose "
                "another folder by --out or remove it"
            ) from None
        if found.settings == self.state.settings and not found.finished:
            self.state = found
            return "going on with the demo that was stopped"
        for folder in (self.train_dir, self.test_dir, self.pictures):
            shutil.rmtree(folder, ignore_errors=True)
        self._save()
        reason = "is finished" if found.finished else "had other settings"
        return f"the demo in this folder {reason}: starting over"

    def _save(self) -> None:
        self.out_dir.mkdir(parents=True, exist_ok=True)
        unfinished = self.state_file.with_suffix(".tmp")
        unfinished.write_text(json.dumps(asdict(self.state), indent=1))
        unfinished.replace(self.state_file)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the time of the block to what ``demo.json`` has for the step."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = self.state.seconds.get(step, 0.0) + time.monotonic() - start
            self.state.seconds[step] = seconds
            self._save()

    def make_data(self) -> str:
        """Make the data set, or find it; returns which."""
        try:
            made = write_coco(self.data, self.spec, progress=True)
        except OSError as error:
            raise StepError(f"making the data failed: {error}") from None
        counts = f"{self.spec.num_train} + {self.spec.num_val} images"
        return f"{'made' if made else 'found'} {counts} in {shown(self.data)}"

    def checkpoint(self) -> Path | None:
        """The checkpoint that ends the training, if it is there."""
        file = self.train_dir / f"iter_{self.cfg.train_cfg.max_iters}.pth"
        last = self.train_dir / "last_checkpoint"
        # The latter is written when the former is complete.
        complete = last.is_file() and Path(last.read_text().strip()).name == file.name
        return file if complete and file.is_file() else None

    def train(self) -> Path:
        """Train, or go on training; returns the checkpoint."""
        log = self.out_dir / "train.log"
        resume = (self.train_dir / "last_checkpoint").is_file()
        self._run("training", "train.sh", [], log, ["--resume"] if resume else [])
        checkpoint = self.checkpoint()
        if checkpoint is None:
            raise StepError(f"training left no final checkpoint; log: {shown(log)}")
        return checkpoint

    def test(self, checkpoint: Path) -> dict[str, float]:
        """Evaluate; returns the metrics of the closing table by their labels."""
        log = self.out_dir / "test.log"
        shutil.rmtree(self.test_dir, ignore_errors=True)
        self._run("evaluation", "test.sh", [shown(checkpoint)], log, [])
        try:
            (file,) = self.test_dir.glob("*/*.json")
            metrics = json.loads(file.read_text())
            return {label: metrics[key] for label, key in _METRICS.items()}
        except (ValueError, KeyError) as error:
            raise StepError(
                f"evaluation left no COCO metrics ({error}); log: {shown(log)}"
            ) from None

    def draw(self, checkpoint: Path) -> int:
        """Draw predictions on the first validation images; returns how many."""
        # Only now, as they take memory that the training may need.
        from mmdet.apis import init_detector
        from mmdet.registry import DATASETS

        from demo.toy.pictures import draw_predictions
        from focal_mm.engine.loaders import use_safe_loaders

        use_safe_loaders()
        dataset_cfg = self.cfg.test_dataloader.dataset
        dataset_cfg.data_root = str(self.data)
        model = init_detector(self.cfg, str(checkpoint), device=get_device())
        dataset = DATASETS.build(dataset_cfg)
        shutil.rmtree(self.pictures, ignore_errors=True)
        indices = range(min(NUM_PICTURES, len(dataset)))
        return len(draw_predictions(model, dataset, indices, self.pictures))

    def finish(self) -> None:
        """Remember that the demo came to its end."""
        self.state.finished = True
        self._save()

    def _run(
        self, step: str, script: str, args: list[str], log: Path, more: list[str]
    ) -> None:
        work_dir = self.train_dir if script == "train.sh" else self.test_dir
        options = [f"{key}={value}" for key, value in self.options.items()]
        command = [
            *("bash", f"tools/dist_{script}", shown(CONFIG), *args),
            *(str(self.processes), "--work-dir", shown(work_dir), *more),
            *(["--cfg-options", *options] if options else []),
        ]
        say(f"$ {shlex.join(command)}")
        code = stream(command, log)
        if code != 0:
            raise StepError(f"{step} failed (exit code {code}); log: {shown(log)}")


def num_processes() -> int:
    """One process for each GPU, two at most; two on a CPU."""
    device = get_device()
    if device == "cuda":
        return min(torch.cuda.device_count(), 2)
    return 2 if device == "cpu" else 1


def stream(command: Sequence[str], log: Path) -> int:
    """Run a command from the repository's root, its output going to a log file.

    Lines that tell the progress are shown, shortened.

    Returns:
        The exit code.
    """
    env = os.environ | {"PYTHON": sys.executable}
    env.setdefault("PORT", str(_free_port()))
    with log.open("a") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                progress = shorten(line)
                if progress:
                    say(progress)
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def shorten(line: str) -> str | None:
    """The progress that a line of MMEngine's log tells, if it tells any."""
    match = _PROGRESS.search(line)
    if match is None:
        return None
    loss = f"  loss {match['loss']}" if match["loss"] else ""
    done = f"{match['done']:>{len(match['all'])}}/{match['all']}"
    return f"  {match['phase']} {done}  eta {match['eta']}{loss}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def shown(path: Path) -> str:
    """The path as seen from the repository's root, where it is inside."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def closing_table(demo: Demo, metrics: dict[str, float], checkpoint: Path) -> Table:
    """The results and where they are."""
    table = Table(title="Mask R-CNN with Focal-Tiny on toy shapes", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in metrics.items():
        table.add_row(label, f"{value:.3f}")
    table.add_section()
    for step, seconds in demo.state.seconds.items():
        table.add_row(f"seconds, {step}", f"{seconds:.0f}")
    table.add_section()
    for label, path in (
        ("pictures", demo.pictures),
        ("checkpoint", checkpoint),
        ("logs", demo.out_dir / "*.log"),
    ):
        table.add_row(label, shown(path))
    return table


def run(demo: Demo) -> int:
    """Do all steps and print the closing table; returns the exit code.

    Raises:
        StepError: If a step failed.
    """
    say(f"demo: {demo.prepare()}")
    with demo.timed("data"):
        say(demo.make_data())
    checkpoint = demo.checkpoint()
    if checkpoint is None:
        with demo.timed("training"):
            checkpoint = demo.train()
    else:
        say(f"already trained: {shown(checkpoint)}")
    with demo.timed("evaluation"):
        metrics = demo.test(checkpoint)
    with demo.timed("pictures"):
        say(f"drew {demo.draw(checkpoint)} pictures")
    demo.finish()
    Console().print(closing_table(demo, metrics, checkpoint))
    return verdict(metrics["box AP50"])


def verdict(box_ap50: float) -> int:
    """Say so if the detector has not learnt; returns the exit code."""
    if box_ap50 >= MIN_BOX_AP50:
        return 0
    print(
        f"demo: box AP50 is {box_ap50:.3f}, below {MIN_BOX_AP50:.2f}: the detector "
        "has not learnt the shapes",
        file=sys.stderr,
    )
    return 1


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=lambda path: Path(path).absolute(),
        default=ROOT / "work_dirs/demo",
        help="folder for data, logs, checkpoints and pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        help="changes to the config, as in tools/train.py",
    )
    return parser.parse_args(argv)


def guarded(action: Callable[[], int]) -> int:
    """Run the action; a failed step or a stop by the user becomes one line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return action()
    except StepError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    return guarded(lambda: run(Demo(args.out, CocoSpec(), args.cfg_options)))


if __name__ == "__main__":
    sys.exit(main())
