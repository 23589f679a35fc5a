"""What a sweep found, as plain data: what the report, trials.csv and the terminal's table are made of."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal


class State(StrEnum):
    """How far a trial is, or how it ended."""

    waiting = "waiting"
    running = "running"
    complete = "complete"
    pruned = "pruned"  # stopped because others did better
    diverged = "diverged"  # stopped because a number was no longer finite
    failed = "failed"  # raised, or was killed


_AT_EDGE = 0.1  # of the range
_NEXT = 1.1  # a factor that makes another learning rate
FINISHED = (State.complete, State.pruned, State.diverged)  # the trials that count


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    Args:
        number: of the trial in its study, 0, 1, ...
        state: how far it is.
        value: the objective; the last that was reported where it was pruned, ±inf where it diverged, None where there
            is none.
        params: searched parameter, as in an override, to its value; choices are text as typed.
        curve: optimizer step to the objective's metric at that validation.
        seconds: wall time, None before the trial has ended.
        folder: of its run, relative to the sweep's folder.
        retry_of: number of the killed trial that it repeats.
        reason: why it failed, diverged or was pruned; one line.
    """

    number: int
    state: State
    value: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    curve: Mapping[int, float] = field(default_factory=dict)
    seconds: float | None = None
    folder: str | None = None
    retry_of: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class ArmResult:
    """One of the things compared, with its own study; a sweep that compares nothing has one arm.

    Args:
        name: such as "lion" or "lion,cosine"; "" where there is one arm only.
        words: the overrides that make the arm, such as ("optimizer=lion",).
        trials: by number.
        rate: the searched parameter that is the learning rate, such as "optimizer.lr"; None where none is.
        low, high: the range of `rate` as it was searched in the end.
        widened: how often that range was widened by a decade, since the best lay at its edge.
        added: trials that widening has added to those of the sweep.
        exchangeable: whether trials are independent draws from one distribution, so that expected best against budget
            means something: random search, and no other.
        at_init: the objective of the network before training; None where not known.
        confirmed: fresh seed to the objective of the best parameters with that seed.
        command: reproduces the best trial; "" before there is one.
    """

    name: str
    words: tuple[str, ...]
    trials: tuple[TrialResult, ...]
    rate: str | None = None
    low: float | None = None
    high: float | None = None
    widened: int = 0
    added: int = 0
    exchangeable: bool = False
    at_init: float | None = None
    confirmed: Mapping[int, float] = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True)
class SweepResult:
    """A whole sweep.

    Args:
        name: of the study.
        metric: the objective, such as "val/loss".
        mode: "min" or "max".
        n_trials: finished trials wanted of each arm, besides those that widening has added to it.
        arms: in the order in which they were named.
        sampler: as resolved: grid, tpe, random, qmc, gp or cmaes.
        pruner: none, median, halving or hyperband.
        command: what continues or extends the sweep.
        facts: further lines for the foot of the report: versions, device, commit, dates.
    """

    name: str
    metric: str
    mode: str
    n_trials: int
    arms: tuple[ArmResult, ...]
    sampler: str
    pruner: str
    command: str
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def sign(self) -> int:
        """1 where less is better, -1 where more is."""
        return 1 if self.mode == "min" else -1

    def best(self, arm: ArmResult) -> TrialResult | None:
        """The best complete trial of an arm, the earliest of equals."""
        complete = [t for t in arm.trials if t.state == State.complete and t.value is not None]
        return min(complete, key=lambda t: (self.sign * (t.value or 0.0), t.number), default=None)


def edge(best: float, tried: Iterable[float], low: float, high: float) -> Literal["low", "high"] | None:
    """The end of a range at which the best learning rate lies: within a tenth of it, and none tried farther out.

    Args:
        best: learning rate.
        tried: all learning rates.
        low, high: the range; distances in it are those of logarithms.
    """
    where = math.log(best / low) / math.log(high / low)
    if where < _AT_EDGE and min(tried) > best / _NEXT:
        return "low"
    if where > 1 - _AT_EDGE and max(tried) < best * _NEXT:
        return "high"
    return None
