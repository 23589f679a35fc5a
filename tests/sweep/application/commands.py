"""Commands given as a user gives them, in a folder of their own, and what they leave: files, trials, processes."""

import csv
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from stepsize.sweep import storage

APPLICATION = Path(__file__).parent / "app.py"
RECIPE = Path(__file__).parents[3] / "train.py"
SWEEP = ("-m", "hydra/sweeper=stepsize", "hydra/launcher=forkserver", "hydra.sweep.dir=out")
_MARK = "STEPSIZE_TEST_OF"
_PATIENCE = 120.0  # seconds: the machine may be busy


@dataclass
class Ended:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Running:
    """A command at work; what it prints goes to files."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = _PATIENCE) -> Ended:
        try:
            code = self.process.wait(timeout)
        finally:
            self.process.kill()
            self.process.wait()
        return Ended(code, self.out.read_text(), self.err.read_text())


@dataclass
class Commands:
    """Commands in one folder.

    Args:
        folder: where they are given.
        program: the script they run.
    """

    folder: Path
    program: Path = APPLICATION
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *words: str, program: Path | None = None, memory: int = -1, **environment: str) -> Running:
        """Args:
        words: of the command line.
        program: another script.
        memory: bytes that each process may reserve; -1 for all there are.
        environment: variables besides the test's own.
        """
        out, err = (self.folder / f"{name}-{len(self.started)}" for name in ("stdout", "stderr"))
        known = {k: v for k, v in os.environ.items() if k not in ("HYDRA_FULL_ERROR", "STEPSIZE_ONE_LINE_ERRORS")}
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, str(program or self.program), *words],
                cwd=self.folder,
                env=known | {"OMP_NUM_THREADS": "1", _MARK: self.mark} | environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                preexec_fn=partial(resource.setrlimit, resource.RLIMIT_AS, (memory, memory)),
            )
        self.started.append(process)
        return Running(process, out, err)

    def run(self, *words: str, timeout: float = 240, **options: Any) -> Ended:
        return self.start(*words, **options).end(timeout)

    def seen(self) -> list[list[str]]:
        """What the application's trials have noted: began or ended, number, process, x."""
        path = self.folder / "seen"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def numbers(self, what: str = "began") -> list[int]:
        return [int(line[1]) for line in self.seen() if line[0] == what]

    def rows(self, folder: str = "out") -> list[dict[str, str]]:
        with (self.folder / folder / "trials.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def trials(self, url: str | None = None, study: str = "sweep") -> list[FrozenTrial]:
        opened = storage.connect(url or f"sqlite:///{self.folder}/out/study.db")
        return optuna.load_study(study_name=study, storage=opened).get_trials()

    def processes(self) -> list[int]:
        """All processes that the commands have started, directly or not, and that still run."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if f"{_MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except (OSError, ValueError):
                continue
        return found

    def wait_for_none_left(self) -> None:
        """Wait for processes that have been killed to be gone, and for no others."""
        until(lambda: not self.processes(), timeout=10)

    def text_of_files(self) -> str:
        """All that stands in the files below the folder."""
        return "\n".join(p.read_bytes().decode(errors="replace") for p in self.folder.rglob("*") if p.is_file())


@contextmanager
def given_in(folder: Path, program: Path = APPLICATION) -> Iterator[Commands]:
    """Commands in a folder; in the end whatever they left running is killed."""
    given = Commands(folder, program)
    try:
        yield given
    finally:
        for pid in given.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in given.started:
            process.wait()


def until(condition: Callable[[], object], timeout: float = _PATIENCE) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
