"""How trials get a process: from the fork server, each as soon as a worker is free; or from another launcher."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.plugins.launcher import Launcher

from stepsize.sweep.command import quoted, threads
from stepsize.sweep.fork_server import ForkServer, Job, Process, tail, wait
from stepsize.sweep.job import KNOWN, Ended, facts
from stepsize.sweep.launch import call, trial
from stepsize.sweep.plan import Claimed
from stepsize.sweep.study import Study
from stepsize.trial import VARIABLE

_KILL = 9
_SHOWN = 20  # lines of a traceback


@dataclass(frozen=True)
class Failed:
    """A trial that ended without a value.

    Args:
        reason: one line.
        killed: by someone else, so that it is worth a second try.
        interrupted: by the sweep's own end.
        tail: the last lines it printed.
    """

    reason: str
    killed: bool = False
    interrupted: bool = False
    tail: str = ""


@dataclass(frozen=True)
class Started:
    """A trial that runs.

    Args:
        study, claimed: the trial.
        at: time.monotonic() of its start.
    """

    study: Study
    claimed: Claimed
    at: float


class Runner(Protocol):
    """Runs trials."""

    workers: int

    def start(self, study: Study, claimed: Claimed) -> Started:
        """Begin a trial, at once or when `ended` is called."""

    def ended(self, timeout: float) -> list[tuple[Started, Ended | Failed]]:
        """The trials that have ended; waits for one as long as `timeout` seconds."""

    def stop(self, patience: float, hurry: Callable[[], bool]) -> list[tuple[Started, Ended | Failed]]:
        """Interrupt what runs, wait `patience` seconds or until in a hurry, end the rest; returns all that ran."""

    def close(self) -> None:
        """Leave no process behind."""


def overrides(study: Study, claimed: Claimed, folder: Path) -> list[str]:
    """The words of a trial's run, its place in the sweep's folder among them."""
    place = [f"hydra.sweep.dir={quoted(folder)}", f"hydra.sweep.subdir={quoted(claimed.folder)}"]
    return [*claimed.overrides(study.plan), *place]


class Pool:
    """Workers of the fork server.

    Args:
        server: makes the processes, in which the application is there.
        workers: at once.
        folder: of the sweep.
    """

    def __init__(self, server: ForkServer, workers: int, folder: Path) -> None:
        self.workers = workers
        self.folder = folder
        self._server = server
        self._free = list(range(workers))
        self._running: dict[Process, tuple[Started, int]] = {}
        self._gpus = _gpus() if workers > 1 else []

    def start(self, study: Study, claimed: Claimed) -> Started:
        """Begin a trial at once."""
        slot = self._free.pop(0)
        words = overrides(study, claimed, self.folder)
        folder = self.folder / claimed.folder
        set_aside(folder)
        alone = [*words, f"hydra.run.dir={quoted(folder)}"]  # what Lightning's further processes are started with
        environment = {VARIABLE: f"{study.plan.name}:{claimed.number}", KNOWN: facts(claimed.params, study.attributes)}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        job = Job(
            call=call(trial, alone, claimed.number),
            output=folder / "output.log",
            argv=[sys.argv[0], *alone],
            environment=environment,
            threads=threads(self.workers),
        )
        if job.threads:
            study.note(claimed, {"threads": job.threads})
        started = Started(study, claimed, time.monotonic())
        self._running[self._server.start(job)] = (started, slot)
        return started

    def ended(self, timeout: float) -> list[tuple[Started, Ended | Failed]]:
        """The trials whose processes have ended."""
        return [self._reap(process) for process in wait(list(self._running), timeout)]

    def stop(self, patience: float, hurry: Callable[[], bool]) -> list[tuple[Started, Ended | Failed]]:
        """End what runs."""
        for process in self._running:
            process.stop()
        until, found = time.monotonic() + patience, []
        while self._running and time.monotonic() < until and not hurry():
            found += self.ended(0.2)
        for process in self._running:
            process.kill()
        while self._running:
            found += self.ended(1.0)
        return found

    def close(self) -> None:
        """End what waits for a trial."""
        self._server.close()

    def _reap(self, process: Process) -> tuple[Started, Ended | Failed]:
        started, slot = self._running.pop(process)
        self._free.append(slot)
        outcome = process.outcome()
        if isinstance(outcome.value, Ended) and not outcome.interrupted:  # or half a training might count as one
            return started, outcome.value
        output = tail(self.folder / started.claimed.folder / "output.log")
        reason = outcome.error or f"ended without a result, exit code {outcome.exit_code}"
        return started, Failed(reason, outcome.signal == _KILL, outcome.interrupted, output)


class Batches:
    """Another launcher: as many trials at once as there are workers, and then the next as many.

    Args:
        launcher: Hydra's, set up.
        workers: trials of a batch.
        folder: of the sweep.
    """

    def __init__(self, launcher: Launcher, workers: int, folder: Path) -> None:
        self.workers = workers
        self.folder = folder
        self._launcher = launcher
        self._next: list[Started] = []

    def start(self, study: Study, claimed: Claimed) -> Started:
        """Note a trial for the next batch."""
        set_aside(self.folder / claimed.folder)
        self._next.append(Started(study, claimed, time.monotonic()))
        return self._next[-1]

    def ended(self, timeout: float) -> list[tuple[Started, Ended | Failed]]:
        """Run the batch; returns when all of it has ended."""
        batch, self._next = self._next, []
        if not batch:
            time.sleep(timeout)
            return []
        jobs = []
        for s in batch:
            name = f"++hydra.job.env_set.{VARIABLE}={quoted(f'{s.study.plan.name}:{s.claimed.number}')}"
            jobs.append([*overrides(s.study, s.claimed, self.folder), name])
        try:
            returned: Sequence[Any] = self._launcher.launch(jobs, initial_job_idx=batch[0].claimed.number)
        except (KeyboardInterrupt, SystemExit):
            return [(s, Failed("interrupted", interrupted=True)) for s in batch]
        except Exception as error:  # of the launcher itself, or of a worker that was killed
            killed = type(error).__name__ == "TerminatedWorkerError"
            return [(s, Failed(_line(error), killed=killed)) for s in batch]
        values = [job._return_value for job in returned]
        return [(s, v if isinstance(v, Ended) else _failed(v)) for s, v in zip(batch, values, strict=True)]

    def stop(self, patience: float, hurry: Callable[[], bool]) -> list[tuple[Started, Ended | Failed]]:
        """Nothing runs between two batches."""
        batch, self._next = self._next, []
        return [(s, Failed("interrupted", interrupted=True)) for s in batch]

    def close(self) -> None:
        """The launcher looks after its own."""


def set_aside(folder: Path) -> None:
    """Give the folder of an interrupted attempt another name: what is there is never overwritten."""
    attempt = 1
    if folder.exists():
        while (aside := folder.with_name(f"{folder.name}.interrupted-{attempt}")).exists():
            attempt += 1
        folder.rename(aside)


def _gpus() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def _failed(error: object) -> Failed:
    lines = "\n".join(getattr(error, "__notes__", ())).splitlines()
    return Failed(_line(error), tail="\n".join(lines[-_SHOWN:]))


def _line(error: object) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
