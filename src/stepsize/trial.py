"""What a run knows of the sweep that it is a trial of: a place to report to, and nothing of who sweeps."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

VARIABLE = "STEPSIZE_TRIAL"  # set in the environment of a trial, and so in that of the processes it starts


class Trial(Protocol):
    """A trial as its run sees it."""

    @property
    def params(self) -> Mapping[str, Any]:
        """What was chosen for it."""

    @property
    def wants_start(self) -> bool:
        """Whether the metric of the network before training is not known yet."""

    def report(self, step: int, value: float) -> bool:
        """Take the objective's metric at an optimizer step; returns whether to stop, as others did better."""

    def report_start(self, value: float) -> None:
        """Take the metric of the network before training, where `wants_start` asks for it."""


class Follower:
    """The trial in the other processes of a run: the first one reports, and shares what was decided."""

    params: Mapping[str, Any] = {}
    wants_start = False

    def report(self, step: int, value: float) -> bool:
        """Leave the decision to the first process."""
        return False

    def report_start(self, value: float) -> None:
        """Leave it to the first process."""


_current: ContextVar[Trial | None] = ContextVar("trial", default=None)


@contextmanager
def reporting_to(trial: Trial) -> Iterator[None]:
    """Let the runs inside the block report to `trial`."""
    token = _current.set(trial)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Trial | None:
    """The trial that this process runs; None outside a sweep."""
    return _current.get() or (Follower() if follows() else None)


def follows() -> bool:
    """Whether Lightning started this process to take part in a trial."""
    return VARIABLE in os.environ and int(os.environ.get("LOCAL_RANK", "0")) > 0
