"""What a study is to try, and a trial of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from stepsize.sweep.space import Space, command_line

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)  # states of a finished trial; one that diverged is pruned


@dataclass(frozen=True)
class Plan:
    """What a study is to try.

    Args:
        name: of the study, unique in its storage.
        folder: of its trials, relative to the sweep's.
        space: searched parameters.
        overrides: of every trial.
        sampler: grid, tpe, random, qmc, gp, cmaes; or "listed", which takes the values of `listed` in turn.
        n_trials: finished trials wanted, those added by widening not counted.
        mode: "min" or "max".
        seed: of the sampler.
        pruner: its name.
        rate: the parameter whose range is widened where the best lies at its edge; None widens nothing.
        listed: parameter to the values of trial 0, 1, ...
        fingerprint: what must be the same for a study to be continued, as plain data.
        about: further facts that the report reads, as plain data.
    """

    name: str
    folder: str
    space: Space
    overrides: tuple[str, ...]
    sampler: str
    n_trials: int
    mode: str
    seed: int
    pruner: str
    rate: str | None
    listed: Mapping[str, Sequence[Any]]
    fingerprint: Mapping[str, Any]
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Claimed:
    """A trial that is this process's to run."""

    trial: Trial
    number: int
    id: int
    params: Mapping[str, Any]
    folder: str  # relative to the sweep's

    def overrides(self, plan: Plan) -> list[str]:
        """The command line of its run."""
        return command_line(plan.overrides, self.params)


def best(trials: Iterable[FrozenTrial], mode: str) -> FrozenTrial | None:
    """The best complete trial, the earliest of equals; None where none is complete.

    Args:
        trials: of a study.
        mode: "min" or "max".
    """
    sign = 1 if mode == "min" else -1
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    return min(complete, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)
