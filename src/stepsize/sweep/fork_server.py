"""Runs each trial in a fresh process, forked from a server that has torch, Lightning and the recipe loaded already.

The server is multiprocessing's own, one in each driver. Nothing leaks from trial to trial, a crash costs one trial, and
a trial waits for no import.
"""

import atexit
import contextlib
import itertools
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from stepsize.sweep import fork_child, fork_preload
from stepsize.sweep.fork_process import Job, Outcome, Process, wait

__all__ = ["ForkServer", "Job", "Outcome", "Process", "tail", "wait"]

_TRIES = 5  # to start a process: a server that was just killed takes a moment to be seen dead
_TAIL_BYTES = 1 << 16


class ForkServer:
    """Makes processes that begin with the driver's main script and `preload` loaded.

    The server itself ends with the driver.

    Args:
        preload: modules; they may use neither threads nor a GPU as they are imported. A module that cannot be imported
            is warned of once, when the first outcome is read.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        self._preload = tuple(preload)
        self._context = multiprocessing.get_context("forkserver")
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = itertools.count()
        self._running: list[Process] = []

    def warm(self) -> None:
        """Start the server and do not wait for it; no more than a look where it runs already."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="stepsize-")
            atexit.register(self._close_in, os.getpid())
        self._context.set_forkserver_preload([fork_preload.__name__])
        os.environ[fork_preload.REQUEST] = fork_preload.request(self._preload)
        resource_tracker.ensure_running()  # before signals are held back: it lets them in again as it starts
        before = signal.pthread_sigmask(signal.SIG_BLOCK, fork_preload.HELD)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            del os.environ[fork_preload.REQUEST]

    def start(self, job: Job) -> Process:
        """Make a process for a job; waits for a server that is still importing, and makes a new one if it has died.

        Raises:
            OSError: the output's folder cannot be made.
            RuntimeError: the server dies again and again.
        """
        job.output.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES):
            self.warm()
            assert self._folder is not None
            answer = Path(self._folder.name, str(next(self._count)))
            order = fork_child.Order(
                job.call,
                job.output.absolute(),
                tuple(job.argv),
                dict(job.environment),
                job.threads,
                answer,
                self._preload,
            )
            process = self._context.Process(target=fork_child.run, args=(order,))
            try:
                process.start()
            except (EOFError, ConnectionError):
                time.sleep(0.1)
                continue
            self._running = [p for p in self._running if not p.has_ended]
            self._running.append(started := Process(job, process, answer))
            return started
        raise RuntimeError(f"the fork server dies as it imports {', '.join(self._preload)}")

    def close(self) -> None:
        """Kill what still runs. Outcomes that were not read are lost."""
        for process in self._running:
            process.kill()
        left = self._running
        while left := [p for p in left if not p.has_ended]:
            wait(left, None)
        self._running = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
            atexit.unregister(self._close_in)

    def _close_in(self, driver: int) -> None:
        if os.getpid() == driver:  # not in a copy that the driver has forked
            self.close()


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of an output file, each progress bar as it was last drawn; "" where there is no file."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
        drawn = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip().split("\n")]
        return "\n".join(drawn[-lines:])
    return ""
