"""Runs of train.py for a test, given as a user gives them: started, sent signals, and what they leave."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).parents[1]
_PATIENCE = 240.0  # seconds: the machine may be busy
UNHELD = "+callbacks.hold=null"
_STRANGERS = ("HYDRA_FULL_ERROR", "STEPSIZE_ONE_LINE_ERRORS", "LOCAL_RANK")


def until(holds: Callable[[], object], timeout: float = _PATIENCE) -> None:
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@dataclass
class Ended:
    """What a command printed, and its exit code, as a shell has it."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.out.splitlines()[-1]


@dataclass
class Running:
    """A command at work, in a process group of its own, as a terminal starts it; what it prints goes to files."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def send_to_all(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def send_to(self, pid: int, number: signal.Signals) -> None:
        os.kill(pid, number)

    def children(self) -> list[int]:
        """The command's own process, and then those that take part with it."""
        return sorted(self.living(), key=lambda pid: pid != self.process.pid)

    def end(self, timeout: float = _PATIENCE) -> Ended:
        try:
            code = self.process.wait(timeout)
        finally:
            self.kill()
        return Ended(128 - code if code < 0 else code, self.out.read_text(), self.err.read_text())

    def kill(self) -> None:
        if self.living():
            self.send_to_all(signal.SIGKILL)
        self.process.wait()

    def living(self) -> list[int]:
        """The processes of the group that still run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            except OSError:  # it has ended meanwhile
                continue
            if int(group) == self.process.pid and state != "Z":
                found.append(int(path.parent.name))
        return sorted(found)


class Commands:
    """Commands given in one folder.

    Args:
        folder: where they are given.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Running] = []

    def start(
        self, *words: str, program: tuple[str, ...] = (str(REPOSITORY / "train.py"),), **variables: str
    ) -> Running:
        """Args:
        words: of the command line.
        program: what comes between `python` and the words.
        variables: of the environment, besides the test's own.
        """
        out, err = (self.folder / f"{name}-{len(self.started)}" for name in ("stdout", "stderr"))
        known = {k: v for k, v in os.environ.items() if k not in _STRANGERS}
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, *program, *words],
                cwd=self.folder,
                env=known | {"PYTHONPATH": str(REPOSITORY / "tests"), "OMP_NUM_THREADS": "1"} | variables,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        running = Running(process, out, err)
        self.started.append(running)
        return running

    def run(self, *words: str, **options: Any) -> Ended:
        return self.start(*words, **options).end()

    def held(self, *words: str, at: str = "step:5", processes: int = 1, **options: Any) -> Running:
        """A run that has come to a place, and waits there for the file `hold` to vanish.

        Args:
            words: of the command line.
            at: the place, as `Hold` takes it.
            processes: that have to come there.
            options: as `start` takes them.
        """
        hold = self.folder / "hold"
        hold.touch()
        running = self.start(*words, f"+callbacks.hold={{_target_:holding.Hold,folder:{self.folder},{at}}}", **options)
        places = [self.folder / f"here{rank}" for rank in range(processes)]
        until(lambda: all(place.exists() for place in places) or running.process.poll() is not None)
        assert running.process.poll() is None, running.end()
        return running

    def interrupted(self, number: signal.Signals, *words: str, **options: Any) -> Ended:
        """A run that has received a signal at a place, and has ended of it."""
        running = self.held(*words, **options)
        running.send(number)
        until(lambda: b"stopping after this step" in running.err.read_bytes())
        (self.folder / "hold").unlink()
        return running.end()

    def type(self, line: str) -> Ended:
        """Type the command at the end of a line such as "to continue: python train.py resume=FOLDER".

        What held the run is left out: a word that names a class is not brought back by itself.
        """
        return self.run(*re.search(r"python \S+train\.py (.*)", line)[1].split(), UNHELD)

    def saved(self, folder: str = "run") -> dict[str, Any]:
        return torch.load(self.folder / folder / "checkpoints/last.ckpt", weights_only=True)

    def result(self, folder: str = "run") -> dict[str, Any]:
        return json.loads((self.folder / folder / "result.json").read_text())

    def kill_all(self) -> None:
        for running in self.started:
            running.kill()


def assert_equal(here: Commands, there: Commands) -> None:
    """Both ended with the same weights, in every bit, and the same numbers."""
    ours, theirs = here.saved(), there.saved()
    assert ours["global_step"] == theirs["global_step"] == 30
    assert all(torch.equal(ours["state_dict"][k], theirs["state_dict"][k]) for k in theirs["state_dict"])
    for what in ("ended", "best", "last", "test", "objective", "steps", "world_size"):
        assert here.result()[what] == there.result()[what]
