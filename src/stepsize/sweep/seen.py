"""A study as a sampler sees it: up to date, and with diverged trials as the worst."""

import copy
import math
from collections.abc import Container
from typing import Any, cast

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState


def seen(study: Study, trial: FrozenTrial, is_pruned_complete: bool) -> Study:
    """The study without the trial that is being drawn, and with each diverged trial as the worst one.

    A diverged trial is stored as PRUNED with a value of ±inf, or with none. TPE ranks pruned trials by how far they
    came, so one that diverged late would be among the good: here it has come nowhere. The Gaussian process and CMA-ES
    do not look at pruned trials, and would go back to where the last one diverged: for them every pruned trial is
    complete here, with its last value, and a diverged one has the worst value of all, the floor padding of Wakabayashi
    et al., Bayesian optimization with experimental failure for high-throughput materials growth, 2022,
    https://www.nature.com/articles/s41524-022-00859-8.

    Args:
        study: in storage; it is not changed.
        trial: the trial that is being drawn.
        is_pruned_complete: whether pruned trials are shown as complete.
    """
    trials = [t for t in stored(study) if t.number != trial.number]
    finite = [t.value for t in trials if _has_ended(t) and t.value is not None and math.isfinite(t.value)]
    worst = max if study.direction == StudyDirection.MINIMIZE else min
    padding = worst(finite, default=0.0)
    return cast("Study", _Seen(study, [_shown(t, padding, is_pruned_complete) for t in trials]))


def stored(study: Study) -> list[FrozenTrial]:
    """All trials, from storage, by number; not to be changed.

    A study caches them until the next `Study.ask`, which a trial that is rebuilt from its id never calls.
    """
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


class _Seen:
    """The given trials, and all else of the study."""

    def __init__(self, study: Study, trials: list[FrozenTrial]) -> None:
        self._study = study
        self._trials = trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [t for t in self._trials if states is None or t.state in states]


def _has_ended(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _shown(trial: FrozenTrial, padding: float, is_pruned_complete: bool) -> FrozenTrial:
    if not _has_ended(trial):
        return trial
    shown = copy.copy(trial)
    has_diverged = trial.value is None or not math.isfinite(trial.value)
    if has_diverged:
        shown.intermediate_values = {}
    if is_pruned_complete:
        shown.state = TrialState.COMPLETE
        shown.value = padding if has_diverged else trial.value
    return shown
