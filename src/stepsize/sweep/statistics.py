"""What the trials of an arm say beyond its best: how forgiving the learning rate is, and what a budget buys.

Every figure counts a run by

    c(v) = min(sign·v, sign·v₀)        sign = 1 where less is better, -1 where more is

with v₀ the objective of the untrained network: a run that diverged, or that ended worse than it began, is as good as
no training at all. Where v₀ is not known, the worst finite value of the arm stands in its place.
"""

# ruff: noqa: A005 (Python's own module of this name is not hidden: imports here are absolute)
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepsize.sweep.results import FINISHED, ArmResult, State, SweepResult, TrialResult

Floats = NDArray[np.float64]

TOLERANCE = 0.05  # of the improvement over the untrained network, that may be missing inside the basin
LEVEL = 0.95  # of every band and interval
RESAMPLES = 1000  # of a bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3


def untrained(arm: ArmResult) -> float | None:
    """The objective of the network before training; None where it is not known, or not finite."""
    return arm.at_init if arm.at_init is not None and math.isfinite(arm.at_init) else None


def counted(sweep: SweepResult, arm: ArmResult) -> list[tuple[TrialResult, float]]:
    """The finished trials of an arm, each with sign·c(v), the value it counts by.

    A pruned trial counts by the last value it reported. Empty where neither v₀ nor any finite value is known.
    """
    ended = [t for t in arm.trials if t.state in FINISHED]
    finite = [sweep.sign * t.value for t in ended if t.value is not None and math.isfinite(t.value)]
    start = untrained(arm)
    if not finite and start is None:
        return []
    worst = max(finite) if start is None else sweep.sign * start

    def cost(value: float | None) -> float:
        return worst if value is None or not math.isfinite(value) else min(sweep.sign * value, worst)

    return [(t, sweep.sign * cost(t.value)) for t in ended]


def rate_of(arm: ArmResult, trial: TrialResult) -> float | None:
    """The learning rate of a trial; None where it has none that is a positive number."""
    try:
        rate = float(trial.params[arm.rate or ""])
    except (KeyError, TypeError, ValueError):
        return None
    return rate if 0 < rate < math.inf else None


@dataclass(frozen=True)
class RateCurve:
    """The objective over the learning rate: straight lines over log10 lr between trials, and nothing beyond them.

    Args:
        x: log10 lr, ascending, from the lowest that was tried to the highest.
        cost: sign·value at each, never above that of the untrained network.
        worst: cost of the untrained network, or the worst of the arm where that is not known.
    """

    x: Floats
    cost: Floats
    worst: float


def rate_curve(sweep: SweepResult, arm: ArmResult) -> RateCurve | None:
    """The objective of an arm over its learning rate; trials of one learning rate are averaged.

    It ends at the outermost finished trials: of the rest of the searched range nothing is known. A pruned trial, whose
    value is that of a shorter run, counts only beyond the complete ones, where nothing better is known. None with fewer
    than two learning rates, and where no trial beat the untrained network: there is no best learning rate then. Where
    other parameters were searched too, they differ along the curve as among the trials.
    """
    at: dict[float, list[float]] = {}
    trials = counted(sweep, arm)
    whole = [r for t, _ in trials if t.state == State.complete and (r := rate_of(arm, t))]
    for trial, value in trials:
        rate = rate_of(arm, trial)
        is_inside = trial.state == State.pruned and rate is not None and whole and min(whole) <= rate <= max(whole)
        if rate is not None and not is_inside:
            at.setdefault(math.log10(rate), []).append(sweep.sign * value)
    if len(at) < 2:
        return None
    start = untrained(arm)
    worst = max(sweep.sign * value for _, value in trials) if start is None else sweep.sign * start
    if start is not None and min(min(costs) for costs in at.values()) >= worst:
        return None
    knots = np.array(sorted(at))
    heights = np.array([np.mean(at[x]) for x in knots])
    return RateCurve(knots, heights, worst)


def lr_sensitivity(sweep: SweepResult, arm: ArmResult) -> float | None:
    """How much worse than the best a learning rate is on average, over the learning rates that were tried.

        S = E[min(ℓ(η), ℓ₀)] - ℓ*,    log η ~ U(log low, log high)

    with ℓ(η) the objective at η, ℓ₀ that of the untrained network, ℓ* that at the best η, and low and high the
    outermost learning rates of finished trials, not the ends of the searched range. The expectation is the integral of
    `rate_curve` over its width. In the unit of the objective; 0 is a learning rate that does not matter. It grows with
    the span: compare arms that were tried over equally many decades. For mode max the signs are turned. None as in
    `rate_curve`.

    Mitchell Wortsman et al., "Small-scale proxies for large-scale Transformer training instabilities", 2023,
    https://arxiv.org/abs/2309.14322, section 2.2; there over equally spaced learning rates, here over scattered ones.
    """
    curve = rate_curve(sweep, arm)
    if curve is None:
        return None
    mean = float(np.trapezoid(curve.cost, curve.x)) / float(curve.x[-1] - curve.x[0])
    return max(0.0, mean - float(curve.cost.min()))


@dataclass(frozen=True)
class Basin:
    """The learning rates around the best that do nearly as well.

    Args:
        low, high: its ends.
        is_open: whether it reaches the lowest or the highest learning rate that was tried, so that it may be wider.
    """

    low: float
    high: float
    is_open: bool

    @property
    def decades(self) -> float:
        """Its width, log10(high/low)."""
        return math.log10(self.high / self.low)


def basin(sweep: SweepResult, arm: ArmResult, tolerance: float = TOLERANCE) -> Basin | None:
    """The contiguous learning rates around the best that keep 1 - tolerance of its improvement over no training.

        ℓ(η) - ℓ* <= tolerance (ℓ₀ - ℓ*)

    along `rate_curve`, with the symbols of `lr_sensitivity`. Being a share of the improvement, the width is the same
    for a loss with an offset (such as the entropy of text), in other units, and for an accuracy as for an error; a
    share of the loss itself is not. It is at most as wide as what was tried. There is no agreed tolerance. 0.05 is
    above the spread between seeds of a short run, which would otherwise decide the width; widths compare only at the
    same tolerance.

    Args:
        tolerance: share of the improvement that may be missing, in (0, 1).

    The form is the convergence test of Jorge J. Moré, Stefan M. Wild, "Benchmarking derivative-free optimization
    algorithms", 2009, https://doi.org/10.1137/080724083, equation 2.2, with learning rates in the place of solvers.
    """
    curve = rate_curve(sweep, arm)
    if curve is None:
        return None
    best = int(curve.cost.argmin())
    limit = curve.cost[best] + tolerance * (curve.worst - curve.cost[best])
    ends, is_open = [], False
    for side in (slice(best, None, -1), slice(best, None)):
        x, cost = curve.x[side], curve.cost[side]
        above = np.flatnonzero(cost > limit)
        if len(above) == 0:
            ends.append(float(x[-1]))
            is_open = True
        else:
            i = int(above[0])
            ends.append(float(x[i - 1] + (x[i] - x[i - 1]) * (limit - cost[i - 1]) / (cost[i] - cost[i - 1])))
    return Basin(10 ** ends[0], 10 ** ends[1], is_open)


@dataclass(frozen=True)
class ExpectedBest:
    """The best value to expect of k trials, for k = 1, ..., N.

    Args:
        mean: at [k - 1], of the best of k.
        low, high: its percentile bootstrap band.
    """

    mean: Floats
    low: Floats
    high: Floats


def expected_best(values: Floats, sign: int = 1, seed: int = 0) -> ExpectedBest:
    """The expected best of k among N independent trials, for every k.

        E_k = Σᵢ v₍ᵢ₎ C(i - 1, k - 1)/C(N, k),    v₍₁₎ the worst, v₍N₎ the best

    the mean over all subsets of k trials, and so unbiased: Raphael Tang et al., "Showing Your Work Doesn't Always
    Work", 2020, https://arxiv.org/abs/2004.13705. The estimator of Jesse Dodge et al., "Show Your Work: Improved
    Reporting of Experimental Results", 2019, https://arxiv.org/abs/1909.03004, draws with replacement, (i/N)ᵏ -
    ((i - 1)/N)ᵏ, which reports too little progress. The band is the percentile bootstrap over trials; it is too
    narrow where k is near N, as no resample holds anything better than the best trial (Tang et al. find so too).

    Args:
        values: one for each trial, at least one, all finite, in any order; exchangeable, as in random search.
        sign: 1 where less is better, -1 where more is.
        seed: of the bootstrap.
    """
    n = len(values)
    weights = np.zeros((n, n))  # [k - 1, i - 1]
    k = np.arange(1, n + 1)
    weights[:, -1] = k / n  # C(N - 1, k - 1)/C(N, k)
    for i in range(n - 1, 0, -1):  # C(i - 1, k - 1) = C(i, k - 1) (i + 1 - k)/i
        weights[:, i - 1] = weights[:, i] * np.maximum(i + 1 - k, 0) / i
    worst_first = np.sort(sign * np.asarray(values))[::-1]
    draws = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    resampled = np.sort(worst_first[draws], axis=1)[:, ::-1] @ weights.T
    ends = np.quantile(sign * resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return ExpectedBest(sign * (weights @ worst_first), ends[0], ends[1])


def best_so_far(values: Floats, sign: int = 1) -> Floats:
    """The best of the first k values, for every k: what is left to say where trials are not exchangeable.

    It depends on the order of the trials and has no band: a grid's order is fixed, and a sampler such as TPE draws
    each trial from what it saw of those before.
    """
    return sign * np.minimum.accumulate(sign * np.asarray(values))
