"""Arms against the best of them, over the fresh seeds with which each one's best parameters were confirmed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepsize.sweep.results import ArmResult, SweepResult
from stepsize.sweep.statistics import LEVEL, untrained

ALPHA = 1 - LEVEL  # a difference with p below it is called one


@dataclass(frozen=True)
class Interval:
    """A mean and what it stands on.

    Args:
        mean: of the values.
        half_width: of its confidence interval; None for a single value, which says nothing of the spread.
        count: of the values.
    """

    mean: float
    half_width: float | None
    count: int


@dataclass(frozen=True)
class Standing:
    """Where an arm stands.

    Args:
        arm: whose it is.
        interval: over its confirmed seeds.
        diverged: how many of those diverged; the mean counts them as the untrained network.
        p: of the paired test against the best arm, after Holm's correction; None for the best arm itself, where fewer
            than two seeds are shared, and where a seed of either diverged: the spread is no longer that of chance.
    """

    arm: ArmResult
    interval: Interval
    diverged: int
    p: float | None = None

    @property
    def is_worse(self) -> bool:
        """Whether the test tells it from the best arm."""
        return self.p is not None and self.p < ALPHA


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The mean with its confidence interval, None of no values.

        v̄ ± t₍K-1₎(0.975) s/√K,    s² = Σ (vᵢ - v̄)²/(K - 1)

    with Student's t: "Student", "The probable error of a mean", Biometrika 6, 1908. It assumes values that are
    independent and about normal, as those of several seeds are.
    """
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, None, 1)
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2))
    spread = float(np.std(values, ddof=1)) if math.isfinite(mean) else math.inf
    return Interval(mean, quantile * spread / math.sqrt(len(values)), len(values))


def paired_p(one: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """Two-sided p of Student's paired test over the seeds that both have; None with fewer than two of them.

        t = d̄/(s/√K) with K - 1 degrees of freedom,    dᵢ the difference at seed i, s its standard deviation

    A seed fixes the initial weights and the order of the data for both, so differences spread less than values do.
    Equal differences leave no spread: p is 1 where they are all 0, else 0.
    """
    seeds = sorted(one.keys() & other.keys())
    differences = np.array([one[s] - other[s] for s in seeds])
    if len(seeds) < 2 or not np.isfinite(differences).all():
        return None
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    from scipy.special import stdtr

    return float(2 * stdtr(len(seeds) - 1, -abs(mean) / (spread / math.sqrt(len(seeds)))))


def holm(ps: Sequence[float]) -> list[float]:
    """The p of each of m tests, corrected for there being m: the chance of any false difference stays below ALPHA.

        p̃₍ᵢ₎ = max over j <= i of min(1, (m - j + 1) p₍ⱼ₎),    p₍₁₎ the smallest

    Sture Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    corrected = [0.0] * len(ps)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = largest
    return corrected


def standings(sweep: SweepResult) -> tuple[Standing, ...]:
    """The arms that have confirmed seeds, the best mean first, each tested against that one.

    The best arm is chosen by the same numbers that it is tested on, which favours it a little: arms that are not told
    from it may be as good, or better. A confirmed seed that diverged counts in the mean as the untrained network; where
    that is not known, as the worst finite value of the arm's seeds, or ±inf where there is none.
    """
    seeds = {arm.name: _counted(sweep, arm) for arm in sweep.arms if arm.confirmed}
    found = []
    for arm in sweep.arms:
        interval = mean_interval(list(seeds.get(arm.name, {}).values()))
        if interval is not None:
            diverged = sum(not math.isfinite(v) for v in arm.confirmed.values())
            found.append(Standing(arm, interval, diverged))
    found.sort(key=lambda s: sweep.sign * s.interval.mean)
    raw = {
        s.arm.name: p
        for s in found[1:]
        if not s.diverged + found[0].diverged
        and (p := paired_p(seeds[s.arm.name], seeds[found[0].arm.name])) is not None
    }
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    return tuple(Standing(s.arm, s.interval, s.diverged, corrected.get(s.arm.name)) for s in found)


def _counted(sweep: SweepResult, arm: ArmResult) -> dict[int, float]:
    finite = [sweep.sign * v for v in arm.confirmed.values() if math.isfinite(v)]
    start = untrained(arm)
    worst = max(finite, default=math.inf) if start is None else sweep.sign * start
    return {seed: v if math.isfinite(v) else sweep.sign * worst for seed, v in arm.confirmed.items()}
