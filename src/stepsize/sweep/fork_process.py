"""One job in a process of its own, as its driver sees it: what it is given, how it is stopped, how it ended."""

import contextlib
import logging
import os
import pickle
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from stepsize.sweep import fork_child

log = logging.getLogger(__name__)

_SERVER_LOST = 255  # what multiprocessing calls the exit code where the server is gone that would have known it


@dataclass(frozen=True)
class Job:
    """A call to make in a process of its own.

    Args:
        call: cloudpickle of a callable without arguments.
        output: file to which stdout and stderr, also those of programs the call starts, are appended.
        argv: `sys.argv` of the process, with which Lightning starts the other processes of DDP.
        environment: variables set before the call, over those the driver had as the server started.
        threads: that torch and OpenMP may use; None for as many as they choose.
    """

    call: bytes
    output: Path
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Args:
        value: what the call returned, None where it did not. Where `interrupted`, it may come of half a training.
        error: one line, such as "ValueError: no such data"; "" where the call returned.
        traceback: of the error, where Python had one.
        signal: number of the signal that ended it, None where none did.
        exit_code: of the process; minus the signal's number where one ended it.
        interrupted: whether it was asked to stop, by `Process.stop` or another's signal.
    """

    value: Any
    error: str
    traceback: str
    signal: int | None
    exit_code: int
    interrupted: bool


class Process:
    """A job at work; `ForkServer.start` makes it."""

    def __init__(self, job: Job, process: BaseProcess, answer: Path) -> None:
        assert process.pid is not None
        self.job = job
        self.pid = process.pid
        self.sentinel = process.sentinel  # for multiprocessing.connection.wait, until `has_ended` was seen to be true
        self._process = process
        self._answer = answer
        self._asked_to_stop = False
        self._exit_code: int | None = None
        self._server_lost = False
        self._outcome: Outcome | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended; nothing that it started is left then."""
        if self._exit_code is None and (code := self._process.exitcode) is not None:
            self._exit_code = code
            self._server_lost = code == _SERVER_LOST and _exists(self.pid) and not self._answer.exists()
            self._send(signal.SIGKILL)
            self._process.close()
        return self._exit_code is not None

    def stop(self) -> None:
        """Ask the process and all that it started to end in order (SIGTERM); asked twice, it ends at once."""
        if not self.has_ended:
            self._asked_to_stop = True
            self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and all that it started (SIGKILL)."""
        if not self.has_ended:
            self._asked_to_stop = True
            self._send(signal.SIGKILL)

    def outcome(self) -> Outcome:
        """How the process ended.

        Raises:
            RuntimeError: it has not.
        """
        if not self.has_ended:
            raise RuntimeError(f"process {self.pid} has not ended")
        if self._outcome is None:
            self._outcome = self._read()
            self._answer.unlink(missing_ok=True)
        return self._outcome

    def _send(self, number: int) -> None:
        # It leads a group of its own once it has begun; a signal that comes before waits for it.
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            if self._exit_code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)

    def _read(self) -> Outcome:
        code = self._exit_code
        assert code is not None
        if self._server_lost:
            code = -signal.SIGKILL
        ended_by = -code if code < 0 else None
        try:
            answer: fork_child.Answer = pickle.loads(self._answer.read_bytes())
        except FileNotFoundError:
            interrupted = self._asked_to_stop or code == fork_child.STOPPED
            return Outcome(None, self._silence(code), "", ended_by, code, interrupted)
        except Exception as error:  # unpickling fails in as many ways as there are classes
            return Outcome(None, f"the result cannot be read: {fork_child.one_line(error)}", "", ended_by, code, False)
        _report(answer.not_loaded)
        return Outcome(answer.value, answer.error, answer.traceback, ended_by, code, answer.interrupted)

    def _silence(self, code: int) -> str:
        """What ended a process that could not say so itself."""
        if self._server_lost:
            return "the fork server was killed, and its trials with it"
        if code < 0:
            name = _name(-code)
            hint = " (out of memory?)" if -code == signal.SIGKILL and not self._asked_to_stop else ""
            return f"killed by {name}{hint}"
        lost = ", or the fork server was killed" if code == _SERVER_LOST else ""
        return f"the process ended with exit code {code} and no result{lost}"


def wait(processes: Iterable[Process], timeout: float | None) -> list[Process]:
    """Wait until one of the processes has ended; returns those that have.

    Args:
        processes: to wait for.
        timeout: in seconds; None waits as long as it takes.
    """
    processes = list(processes)
    if not any(p.has_ended for p in processes):
        connection.wait([p.sentinel for p in processes], timeout)
    return [p for p in processes if p.has_ended]


_reported: set[tuple[str, str]] = set()


def _report(not_loaded: Mapping[str, str]) -> None:
    for module, why in not_loaded.items():
        if (module, why) not in _reported:
            _reported.add((module, why))
            log.warning("the fork server has not loaded %s, so that every trial does: %s", module, why)


def _name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
