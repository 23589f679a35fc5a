"""Where the best learning rate lies at an edge of the range: the decade beyond it is searched too."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from stepsize.sweep import samplers
from stepsize.sweep.plan import COUNTED, Plan, best
from stepsize.sweep.results import edge
from stepsize.sweep.retries import is_repeat
from stepsize.sweep.space import rounded

_MOST = 2  # decades added at each end


def widening(
    trials: Sequence[FrozenTrial], rate: str, now: BaseDistribution, plan: Plan, before: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """How the range is widened: its new ends, and how many trials are added; None where it stays.

    It follows from the finished trials alone: whichever process is first, the answer is the same.

    Args:
        trials: of the study, all finished; those that still wait are beyond its target, and are the next to be run.
        rate: the learning rate's name.
        now: its range.
        plan: of the study.
        before: earlier answers.
    """
    if not isinstance(now, FloatDistribution) or not now.log:
        return None
    end = _edge(trials, rate, now, plan.mode)
    if end is None or sum(event["end"] == end for event in before) >= _MOST:
        return None
    values = samplers.beyond(now, plan.n_trials, end) if plan.sampler == "grid" else []
    return {
        "end": end,
        "low": rounded(now.low / 10) if end == "low" else now.low,
        "high": rounded(now.high * 10) if end == "high" else now.high,
        "at": sum(not is_repeat(t) and t.state != TrialState.WAITING for t in trials),
        "trials": len(values) or max(2, plan.n_trials // 4),
        "values": values,
    }


def _edge(trials: Sequence[FrozenTrial], rate: str, now: FloatDistribution, mode: str) -> Literal["low", "high"] | None:
    tried = [t.params[rate] for t in trials if t.state in COUNTED and rate in t.params]
    found = best((t for t in trials if rate in t.params), mode)
    return edge(found.params[rate], tried, now.low, now.high) if found else None
