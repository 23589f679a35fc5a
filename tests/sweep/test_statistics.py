"""The figures of a sweep equal their formulas, computed by hand or by enumeration."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from stepsize.sweep.results import ArmResult, State, SweepResult, TrialResult
from stepsize.sweep.statistics import (
    basin,
    best_so_far,
    counted,
    expected_best,
    lr_sensitivity,
    rate_curve,
    rate_of,
)

INF = math.inf


def swept(
    objective: dict[float | str, float | None],
    states: dict[float | str, State] | None = None,
    mode: str = "min",
    at_init: float | None = 3.0,
    ends: tuple[float | None, float | None] = (1e-4, 1e-1),
) -> tuple[SweepResult, ArmResult]:
    """A sweep with one trial at each learning rate; those of infinite value diverged."""

    def state(lr: float | str, value: float | None) -> State:
        ended = State.diverged if value is not None and math.isinf(value) else State.complete
        return (states or {}).get(lr, ended)

    trials = [
        TrialResult(i, state(lr, value), value, {"optimizer.lr": lr}) for i, (lr, value) in enumerate(objective.items())
    ]
    arm = ArmResult("", (), tuple(trials), "optimizer.lr", *ends, at_init=at_init)
    return SweepResult("s", "val/loss", mode, len(trials), (arm,), "grid", "none", ""), arm


def test_lr_sensitivity_is_the_area_under_the_curve_over_what_was_tried_less_the_best() -> None:
    # over two decades of the three searched: 1 to 2, then 2 to the untrained network's 3
    assert lr_sensitivity(*swept({1e-3: 1.0, 1e-2: 2.0, 1e-1: INF})) == pytest.approx((1.5 + 2.5) / 2 - 1)


@pytest.mark.parametrize("ends", [(1e-3, 1e-1), (1e-3, 10.0), (1e-9, 1e-1), (1e-9, 10.0), (1e-2, 2e-2), (None, None)])
def test_the_untried_part_of_a_range_changes_neither_number(ends: tuple[float | None, float | None]) -> None:
    sweep = swept({1e-3: 2.0, 1e-1: 1.0}, ends=ends)
    assert lr_sensitivity(*sweep) == pytest.approx(0.5)
    found = basin(*sweep, tolerance=0.25)  # limit: 1 + 0.25 (3 - 1) = 1.5, half-way
    assert (found.low, found.high, found.is_open) == (pytest.approx(1e-2), pytest.approx(1e-1), True)


def test_the_curve_ends_at_the_outermost_finished_trials() -> None:
    at = {1e-6: None, 1e-5: INF, 1e-3: 1.0, 1e-2: 2.0, 1e-1: None}
    curve = rate_curve(*swept(at, {1e-6: State.running, 1e-1: State.failed}, ends=(1e-7, 1.0)))
    assert curve.x.tolist() == pytest.approx([-5, -3, -2])
    assert curve.cost.tolist() == [3, 1, 2]  # one that diverged was tried, and is worth the untrained network


def test_a_run_that_ends_worse_than_it_began_counts_as_untrained() -> None:
    assert lr_sensitivity(*swept({1e-3: 1.0, 1e-2: 2.0, 1e-1: 50.0})) == pytest.approx(1)


def test_of_an_unknown_start_the_worst_finite_value_stands_in_its_place() -> None:
    at = {1e-3: 1.0, 1e-2: 2.0, 1e-1: INF}
    assert lr_sensitivity(*swept(at, at_init=None)) == pytest.approx((1.5 + 2) / 2 - 1)


def test_lr_sensitivity_of_an_accuracy_is_that_of_the_error() -> None:
    accuracy = swept({1e-3: 0.9, 1e-2: 0.6, 1e-1: -INF}, mode="max", at_init=0.1)
    error = swept({1e-3: 0.1, 1e-2: 0.4, 1e-1: INF}, at_init=0.9)
    assert lr_sensitivity(*accuracy) == pytest.approx(lr_sensitivity(*error))
    assert basin(*accuracy).decades == pytest.approx(basin(*error).decades)


def test_a_trial_outside_the_range_was_tried_too() -> None:
    curve = rate_curve(*swept({1e-5: 3.0, 1e-3: 1.0}, ends=(1e-4, 1e-3)))
    assert curve.x.tolist() == pytest.approx([-5, -3])
    assert curve.cost.tolist() == [3, 1]


def test_trials_of_one_learning_rate_are_averaged() -> None:
    sweep, arm = swept({1e-3: 1.0, 1e-2: 2.0})
    arm = replace(arm, trials=(*arm.trials, TrialResult(2, State.complete, 4.0, {"optimizer.lr": 1e-2})))
    assert rate_curve(sweep, arm).cost.tolist() == pytest.approx([1, 2.5])  # 4.0 counts as 3.0


def test_a_pruned_trial_counts_only_beyond_the_complete_ones() -> None:
    at = {1e-4: 2.9, 1e-3: 1.0, 3e-3: 2.5, 1e-2: 1.0}
    curve = rate_curve(*swept(at, {1e-4: State.pruned, 3e-3: State.pruned}, ends=(1e-4, 1e-2)))
    assert curve.x.tolist() == pytest.approx([-4, -3, -2])
    assert curve.cost.tolist() == pytest.approx([2.9, 1, 1])


def test_a_learning_rate_tried_twice_is_one() -> None:
    sweep, arm = swept({1e-3: 1.0})
    arm = replace(arm, trials=(*arm.trials, TrialResult(1, State.complete, 2.0, {"optimizer.lr": 1e-3})))
    assert (lr_sensitivity(sweep, arm), basin(sweep, arm)) == (None, None)


@pytest.mark.parametrize(
    "objective",
    [{}, {1e-3: 1.0}, {1e-3: INF, 1e-2: INF}, {1e-3: 3.5, 1e-2: 3.1}, {1e-3: None, 1e-2: 1.0, "words": 1.0}],
    ids=["none", "one", "all diverged", "none better than untrained", "one that counts"],
)
def test_too_little_has_neither_sensitivity_nor_basin(objective: dict[float | str, float | None]) -> None:
    sweep = swept(objective, {1e-3: State.failed} if None in objective.values() else None)
    assert lr_sensitivity(*sweep) is None
    assert basin(*sweep) is None


def test_without_a_learning_rate_there_is_neither() -> None:
    sweep, arm = swept({1e-3: 1.0, 1e-2: 2.0})
    assert lr_sensitivity(sweep, replace(arm, rate=None)) is None


def test_the_basin_ends_where_the_lines_cross_the_tolerance() -> None:
    # limit: 1 + 0.25 (3 - 1) = 1.5, half-way from 1 to 2 and a quarter of the way from 1 to 3
    found = basin(*swept({1e-4: 2.0, 1e-3: 1.0, 1e-2: 1.0, 1e-1: INF}), tolerance=0.25)
    assert found.low == pytest.approx(10**-3.5)
    assert found.high == pytest.approx(10**-1.75)
    assert found.decades == pytest.approx(1.75)
    assert not found.is_open


def test_a_basin_that_reaches_the_outermost_trial_is_open_and_ends_there() -> None:
    found = basin(*swept({1e-3: 1.0, 1e-2: 2.0, 1e-1: INF}), tolerance=0.25)
    assert found.is_open
    assert (found.low, found.high) == pytest.approx((1e-3, 10**-2.5))


def test_a_basin_is_at_most_what_was_tried() -> None:
    found = basin(*swept({1e-3: 1.0, 1e-2: 1.01, 3e-2: 1.02}, ends=(1e-5, 10.0)))
    assert (found.low, found.high, found.is_open) == (pytest.approx(1e-3), pytest.approx(3e-2), True)


def test_a_trial_that_diverged_closes_the_basin() -> None:
    found = basin(*swept({1e-4: INF, 1e-3: 1.0, 1e-2: INF}, ends=(1e-6, 1.0)), tolerance=0.25)
    assert (found.decades, found.is_open) == (pytest.approx(0.5), False)


def test_a_second_valley_is_not_part_of_the_basin() -> None:
    found = basin(*swept({1e-5: 2.5, 1e-4: 1.01, 1e-3: 2.5, 1e-2: 1.0, 1e-1: 2.5}, ends=(1e-5, 1e-1)))
    assert found.low > 1e-3


def test_the_width_of_the_basin_knows_neither_unit_nor_offset() -> None:
    at = {1e-4: 2.0, 1e-3: 1.0, 1e-2: 1.5, 1e-1: INF}
    moved = {lr: 10 * value + 7 for lr, value in at.items()}
    assert basin(*swept(at)).decades == pytest.approx(basin(*swept(moved, at_init=37.0)).decades)


def test_learning_rates_typed_as_text_are_numbers() -> None:
    sweep, arm = swept({"1e-3": 1.0, "1e-2": 2.0})
    assert rate_of(arm, arm.trials[0]) == 1e-3
    assert lr_sensitivity(sweep, arm) is not None


@pytest.mark.parametrize("lr", ["cosine", 0.0, -1.0, None, INF])
def test_what_is_no_positive_number_is_no_learning_rate(lr: float | str | None) -> None:
    _, arm = swept({1e-3: 1.0})
    assert rate_of(arm, TrialResult(0, State.complete, 1.0, {"optimizer.lr": lr})) is None


def test_trials_that_failed_or_still_run_do_not_count() -> None:
    at = {1e-4: 1.0, 1e-3: None, 1e-2: None, 1e-1: INF}
    found = counted(*swept(at, {1e-3: State.failed, 1e-2: State.running}))
    assert [(t.number, value) for t, value in found] == [(0, 1.0), (3, 3.0)]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_expected_best_of_k_is_the_mean_over_all_subsets_of_k(sign: int) -> None:
    values = np.array([0.3, 2.0, 0.1, 0.7, 0.1, 1.1, 5.0])
    every = [np.mean([sign * min(sign * v for v in s) for s in combinations(values, k)]) for k in range(1, 8)]
    np.testing.assert_allclose(expected_best(values, sign).mean, every, rtol=1e-12)


def test_the_expected_best_of_many_trials_stays_exact() -> None:
    found = expected_best(np.arange(1.0, 401.0)).mean
    k = np.arange(1, 401)
    np.testing.assert_allclose(found, 401 / (k + 1), rtol=1e-9)  # the mean of the least of k among 1, ..., n


def test_the_band_of_one_trial_is_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(size=300)
    found = expected_best(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.high[0] - values.mean() == pytest.approx(half, rel=0.1)
    assert values.mean() - found.low[0] == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_band_lies_around_the_curve(sign: int) -> None:
    found = expected_best(np.random.default_rng(1).exponential(size=30), sign)
    assert (found.low[:10] < found.mean[:10]).all()
    assert (found.mean[:10] < found.high[:10]).all()


def test_the_bootstrap_is_seeded() -> None:
    values = np.random.default_rng(1).normal(size=20)
    assert (expected_best(values, seed=3).low == expected_best(values, seed=3).low).all()
    assert (expected_best(values, seed=3).low != expected_best(values, seed=4).low).any()


def test_one_trial_is_its_own_best() -> None:
    found = expected_best(np.array([0.5]))
    assert [found.mean.tolist(), found.low.tolist(), found.high.tolist()] == [[0.5]] * 3


def test_the_best_so_far_never_gets_worse() -> None:
    values = np.array([3.0, 4.0, 1.0, 2.0])
    assert best_so_far(values).tolist() == [3, 3, 1, 1]
    assert best_so_far(values, -1).tolist() == [3, 4, 4, 4]
