"""Runs each trial in a fresh process, forked from a server that has torch, Lightning and the recipe loaded already.

The server is multiprocessing's own, one in each driver. Nothing leaks from trial to trial, a crash costs one trial, and
a trial waits for no import, nor for its process: one is forked ahead.
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
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.process import BaseProcess
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
        prepare: cloudpickle of a callable without arguments, which is called once, in the server, after the modules
            are there; b"" for none. It is bound by the same rules, and what it leaves is there in every process. Where
            it raises, or the driver's server was started by another, it is called in every process.
    """

    def __init__(self, preload: Sequence[str], prepare: bytes = b"") -> None:
        self._preload = tuple(preload)
        self._prepare = prepare
        self._context = multiprocessing.get_context("forkserver")
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = itertools.count()
        self._running: list[Process] = []
        self._spare: tuple[BaseProcess, connection.Connection] | None = None  # waits for the next job

    def warm(self) -> None:
        """Start the server and do not wait for it; no more than a look where it runs already."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="stepsize-")
            atexit.register(self._close_in, os.getpid())
            self._preparation.write_bytes(self._prepare)
        self._context.set_forkserver_preload([fork_preload.__name__])
        os.environ[fork_preload.REQUEST] = fork_preload.request(self._preload, self._preparation)
        resource_tracker.ensure_running()  # before signals are held back: it lets them in again as it starts
        before = signal.pthread_sigmask(signal.SIG_BLOCK, fork_preload.HELD)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            del os.environ[fork_preload.REQUEST]

    @property
    def _preparation(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name, "prepare")

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
                self._preparation,
            )
            try:
                process, orders = self._waiting()
                orders.send(order)
            except (EOFError, ConnectionError):
                time.sleep(0.1)
                continue
            orders.close()
            self._running = [p for p in self._running if not p.has_ended]
            self._running.append(started := Process(job, process, answer))
            with contextlib.suppress(EOFError, ConnectionError):  # the next job will try again
                self._spare = self._forked()
            return started
        raise RuntimeError(f"the fork server dies as it imports {', '.join(self._preload)}")

    def _waiting(self) -> tuple[BaseProcess, connection.Connection]:
        """A process that waits for its order, and where to send it."""
        spare, self._spare = self._spare, None
        return spare if spare and spare[0].exitcode is None else self._forked()

    def _forked(self) -> tuple[BaseProcess, connection.Connection]:
        theirs, mine = self._context.Pipe(duplex=False)
        process = self._context.Process(target=fork_child.run, args=(theirs,))
        with theirs:
            process.start()
        return process, mine

    def close(self) -> None:
        """Kill what still runs. Outcomes that were not read are lost."""
        if self._spare is not None:
            spare, orders = self._spare
            self._spare = None
            spare.kill()
            spare.join()
            spare.close()
            orders.close()
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
