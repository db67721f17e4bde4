"""Doing what is left of some runs, each after the run that its backbone starts from."""

import os
import re
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from focal_mm.engine.errors import UserError
from focal_mm.engine.ledger.commands import Command, Launcher
from focal_mm.engine.ledger.rows import Recipe, Row, read_recipe
from focal_mm.engine.ledger.runs import OUTPUT, Run, State, run_of
from focal_mm.engine.lock import hold

_SECONDS_TO_END = 60
"""How long a command that is told to end has for it."""
_ERROR_LINE = re.compile(r"^(\w+\.py: .+|[\w.]*(Error|Exception|Interrupt)\b.*)$")


@dataclass(frozen=True)
class Plan:
    """Runs in the order of their dependencies.

    Attributes:
        runs: By name: each after the one that it starts from.
        recipes: Of the runs' rows, by the rows' names.
    """

    runs: Mapping[str, Run]
    recipes: Mapping[str, Recipe]

    def recipe(self, run: Run) -> Recipe:
        return self.recipes[run.row.name]

    def look(self, run: Run) -> State:
        """How far a run is now."""
        return run.look(self.recipe(run))

    def source(self, run: Run) -> Run | None:
        """The run whose checkpoint a run's backbone starts from."""
        return self.runs.get(self.recipe(run).pretraining or "")

    def pretrained(self, run: Run) -> Path | str | None:
        """The checkpoint itself, there or not yet: the last, never the best.

        To choose by the validation set would be to train on it; and ImageNet-22K has
        none.
        """
        source = self.source(run)
        if source is None:
            # An address, which --smoke leaves out.
            return None if self.recipe(run).smoke else self.recipe(run).pretraining
        return self.look(source).checkpoint


def make_plan(
    rows: Sequence[Row],
    known: Iterable[Row],
    seeds: int,
    work_dirs: Path,
    prepare: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows,
) -> Plan:
    """Find all runs that some rows need.

    Args:
        rows: The rows.
        known: All rows; pre-training is found among them, and done with one seed.
        seeds: How many runs each of ``rows`` is to have.
        work_dirs: Folder of the runs' work dirs.
        prepare: Called with all rows that are needed; may return others in their place.

    Raises:
        UserError: If a config cannot be read, or starts from a row that is not known.
    """
    by_name = {row.name: row for row in known}
    sources: dict[str, set[str]] = {}
    queue = deque(rows)
    while queue:
        row = queue.popleft()
        name = read_recipe(row.config).pretraining
        local = name is not None and "://" not in name
        if local and name not in by_name:
            raise UserError(
                f"{row.name} starts from {name}, which is in no metafile: correct "
                f"pretraining in {row.config}"
            )
        sources[row.name] = {name} if local else set()
        queue += [by_name[name]] if local and name not in sources else []
    try:
        order = list(TopologicalSorter(sources).static_order())
    except CycleError as error:
        raise UserError(f"rows start from each other: {error.args[1]}") from None
    chosen = {row.name for row in rows}
    needed = prepare([by_name[name] for name in order])
    runs = [
        run_of(row, seed, work_dirs)
        for row in needed
        for seed in range(seeds if row.name in chosen else 1)
    ]
    recipes = {row.name: read_recipe(row.config) for row in needed}
    return Plan({run.name: run for run in runs}, recipes)


def commands_of(plan: Plan, run: Run, launcher: Launcher) -> list[Command]:
    """The commands that a run still needs, were it to succeed at once."""
    recipe, state = plan.recipe(run), plan.look(run)
    pretrained = plan.pretrained(run)
    commands = []
    if not state.trained:
        stops = [stop for stop in _stops(recipe) if stop > state.work_dir.trained]
        commands = [launcher.train(run, recipe, pretrained, stop) for stop in stops]
    for augmented in state.missing_tests():
        commands.append(launcher.test(run, recipe, state.checkpoint, augmented))
    return commands


def _stops(recipe: Recipe) -> list[int]:
    """Where training pauses: a smoke run half-way too, to be resumed."""
    half = [recipe.length // 2] if recipe.smoke else []
    return [*half, recipe.length]


@dataclass
class Runner:
    """Starts the commands of a plan and tells what becomes of them.

    On one machine the runs take turns; with Slurm, whose queue they wait in, all that
    can start do. Whatever ends this process, the same command goes on from there.

    Attributes:
        plan: What to do.
        launcher: How to start it.
        commit: Of the code, noted beside every command.
        tell: Called with lines for the user.
    """

    plan: Plan
    launcher: Launcher
    commit: str
    tell: Callable[[str], None] = print
    _processes: list[subprocess.Popen] = field(default_factory=list)
    _starting: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> dict[str, str]:
        """Do all that is left.

        Returns:
            Of each run that is not done, by name, why.
        """
        runs = self.plan.runs
        graph = TopologicalSorter({name: self._needs(name) for name in runs})
        graph.prepare()
        failed: dict[str, str] = {}
        pending: dict[Future[str | None], str] = {}
        workers = len(runs) if self.launcher.partition else 1
        pool = ThreadPoolExecutor(max(1, workers))
        try:
            while graph.is_active():
                for name in graph.get_ready():
                    pending[pool.submit(self._finish, runs[name])] = name
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    name = pending.pop(future)
                    if reason := future.result():
                        failed[name] = reason
                        self.tell(f"{name}: {reason}")
                    graph.done(name)
        finally:
            self.end_all()
            pool.shutdown(cancel_futures=True)
        return failed

    def _needs(self, name: str) -> set[str]:
        source = self.plan.source(self.plan.runs[name])
        return {source.name} if source else set()

    def _finish(self, run: Run) -> str | None:
        """Do what is left of a run; returns why it could not be done."""
        if self.plan.look(run).done:
            self.tell(f"{run.name}: done")
            return None
        source = self.plan.source(run)
        if source and not self.plan.look(source).trained:
            return f"not started: {source.name}, which it starts from, is not trained"
        try:
            with hold(run.lock, self._waiting(run)):
                return self._train(run) or self._test(run)
        except (UserError, OSError) as error:
            return str(error)

    def _waiting(self, run: Run) -> Callable[[str], None]:
        told: set[str] = set()

        def wait_for(who: str) -> None:
            if self._stopped.is_set():
                raise UserError("stopped")
            if who not in told:
                told.add(who)
                self.tell(f"{run.name}: waits for {who}")

        return wait_for

    def _train(self, run: Run) -> str | None:
        # A training that somebody started by hand, or that outlived its launcher.
        with hold(run.training_lock, self._waiting(run), stay=False):
            pass
        recipe = self.plan.recipe(run)
        for stop in _stops(recipe):
            if self.plan.look(run).work_dir.trained >= stop:
                continue
            pretrained = self.plan.pretrained(run)
            command = self.launcher.train(run, recipe, pretrained, stop)
            if reason := self._call(run, command):
                return reason
            if self.plan.look(run).work_dir.trained < stop:
                reason = f"training ended without {recipe.unit}_{stop}.pth"
                run.note_failure(reason)
                return f"failed: {reason}"
        return None

    def _test(self, run: Run) -> str | None:
        state = self.plan.look(run)
        for augmented in state.missing_tests():
            recipe = self.plan.recipe(run)
            command = self.launcher.test(run, recipe, state.checkpoint, augmented)
            if reason := self._call(run, command):
                return reason
        self.tell(f"{run.name}: done")
        return None

    def _call(self, run: Run, command: Command) -> str | None:
        self.tell(f"{run.name}: {command}")
        return self.call(command, run)

    def call(self, command: Command, run: Run) -> str | None:
        """Run a command, its output going to a file; returns how it has failed."""
        run.note_start(str(command), self.commit)
        output = run.folder / OUTPUT
        begin = output.stat().st_size
        # With a port of its own, as another training may have the default one.
        env = {"PORT": _free_port(), **os.environ, **command.env}
        with output.open("ab") as log, self._starting:
            if self._stopped.is_set():
                return "stopped"
            # In a session of its own: it is told to end once, by this process.
            process = subprocess.Popen(
                command.words,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._processes.append(process)
        code = process.wait()
        if self._stopped.is_set():
            run.note("stopped")
            return "stopped"
        if code == 0:
            return None
        with output.open("rb") as log:
            log.seek(begin)
            reason = _last_error(log.read().decode(errors="replace"), code)
        run.note_failure(reason)
        return f"failed: {reason} ({output})"

    def end_all(self) -> None:
        """End the commands that run, by the signal upon which they end their own."""
        with self._starting:
            self._stopped.set()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _last_error(output: str, code: int) -> str:
    """The line of a command's output that says why it has failed."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR_LINE.match(line)]
    return (errors or lines or [f"exit code {code}"])[-1]


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as any_port:
        return str(any_port.getsockname()[1])
