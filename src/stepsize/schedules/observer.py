"""The part of a schedule, if any, that is driven by a metric."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from stepsize.schedules.schedule import Schedule
from stepsize.schedules.warmup import Warmup


@runtime_checkable
class Observer(Protocol):
    """A schedule that learns from validations and must be saved with the run; `plateau` makes one."""

    def __call__(self, step: int, horizon: int | None, /) -> float:
        """The multiplier."""

    def observe(self, value: float) -> None:
        """Take in the metric of one validation."""

    def state_dict(self) -> dict[str, float]:
        """What was learned, as plain numbers."""

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from what `state_dict` returned."""


def observer(schedule: Schedule) -> Observer | None:
    """The schedule itself, or the one behind its warmup, if it observes a metric; None for a pure function."""
    while isinstance(schedule, Warmup):
        schedule = schedule.schedule
    return schedule if isinstance(schedule, Observer) else None
