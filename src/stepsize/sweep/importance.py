"""Which of several searched parameters the objective depends on."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from stepsize.sweep.results import ArmResult, SweepResult
from stepsize.sweep.statistics import Floats, counted

FEWEST = 8  # finished trials; a forest of fewer says nothing
TREES = 100
REPEATS = 20  # permutations of a parameter


def searched(arm: ArmResult) -> list[str]:
    """The parameters that differ among an arm's trials, in the order in which they first appear."""
    names = dict.fromkeys(name for trial in arm.trials for name in trial.params)
    return [n for n in names if len({str(t.params[n]) for t in arm.trials if n in t.params}) > 1]


def importance(sweep: SweepResult, arm: ArmResult, seed: int = 0) -> Mapping[str, float] | None:
    """The share of each parameter in what a model of the objective loses when that parameter is shuffled.

        Iⱼ = max(0, E(X with j permuted) - E(X)) / Σ of the same over all parameters

    with E the mean squared error of a random forest, fitted to the finished trials X, each by the value it counts by.
    Shares sum to 1. They include what a parameter does together with others, and speak of the searched ranges alone: a
    parameter searched over a narrow range matters little. With few trials they are rough.

    Choices enter as a column each, permuted together. Numbers enter as they are: a tree sees their order alone, which
    is that of their logarithms. A number that a trial lacks is missing, which the forest knows.

    Leo Breiman, "Random Forests", 2001, https://doi.org/10.1023/A:1010933404324 (permutation); Frank
    Hutter, Holger Hoos, Kevin Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", 2014,
    https://proceedings.mlr.press/v32/hutter14.html (a forest over hyperparameters; there by analysis of variance).

    Returns:
        Parameter to share, the largest first; None with fewer than 8 finished trials or two parameters, and where
        nothing differs.
    """
    trials = counted(sweep, arm)
    names = searched(arm)
    if len(trials) < FEWEST or len(names) < 2:
        return None
    from sklearn.ensemble import RandomForestRegressor

    y = np.array([value for _, value in trials])
    if np.ptp(y) == 0:
        return None
    blocks = [_columns([t.params.get(name) for t, _ in trials]) for name in names]
    forest = RandomForestRegressor(TREES, random_state=seed, n_jobs=1).fit(np.hstack(blocks), y)
    draw = np.random.default_rng(seed)
    error = float(np.mean((forest.predict(np.hstack(blocks)) - y) ** 2))
    lost = []
    for shuffled in range(len(names)):
        orders = [draw.permutation(len(y)) for _ in range(REPEATS)]
        x = np.vstack([np.hstack([b[o] if i == shuffled else b for i, b in enumerate(blocks)]) for o in orders])
        lost.append(max(0.0, float(np.mean((forest.predict(x) - np.tile(y, REPEATS)) ** 2)) - error))
    if not sum(lost) > 0:
        return None
    shares = {name: one / sum(lost) for name, one in zip(names, lost, strict=True)}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _columns(values: list[Any]) -> Floats:
    """One parameter as (trials, columns): one of numbers, or one for each choice, all 0 where it is missing."""
    try:
        numbers = np.array([math.nan if v is None else float(v) for v in values])
    except (TypeError, ValueError):
        choices = sorted({str(v) for v in values if v is not None})
        return np.array([[float(v is not None and str(v) == choice) for choice in choices] for v in values])
    return numbers[:, None]
