"""Arms are told apart by the tests that the statistics books have, and by no less."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from stepsize.sweep.comparison import holm, mean_interval, paired_p, standings
from stepsize.sweep.results import ArmResult, SweepResult

INF = math.inf


def compared(arms: Mapping[str, Mapping[int, float]], mode: str = "min", at_init: float | None = 3.0) -> SweepResult:
    made = [ArmResult(name, (), (), confirmed=seeds, at_init=at_init) for name, seeds in arms.items()]
    return SweepResult("s", "val/loss", mode, 9, tuple(made), "grid", "none", "")


def seeded(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_interval_of_a_mean_is_students() -> None:
    values = [0.31, 0.28, 0.35, 0.30, 0.29]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert found.count == 5


def test_one_value_has_a_mean_and_no_interval() -> None:
    assert mean_interval([0.3]).mean == 0.3
    assert mean_interval([0.3]).half_width is None


def test_no_value_has_neither() -> None:
    assert mean_interval([]) is None


def test_equal_values_leave_no_width() -> None:
    assert mean_interval([0.25, 0.25, 0.25]).half_width == 0


def test_the_paired_test_is_students() -> None:
    one, other = [0.31, 0.28, 0.35, 0.30], [0.29, 0.27, 0.30, 0.31]
    assert paired_p(seeded(*one), seeded(*other)) == pytest.approx(stats.ttest_rel(one, other).pvalue)


def test_only_seeds_that_both_have_are_paired() -> None:
    one = {1: 0.31, 2: 0.28, 3: 0.35, 9: 7.0}
    other = {3: 0.30, 2: 0.27, 1: 0.29, 8: 5.0}
    assert paired_p(one, other) == pytest.approx(stats.ttest_rel([0.31, 0.28, 0.35], [0.29, 0.27, 0.30]).pvalue)


def test_one_shared_seed_says_nothing() -> None:
    assert paired_p({1: 0.1, 2: 0.2}, {2: 0.3, 3: 0.4}) is None


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.5, 0.0)])
def test_differences_without_spread_are_certain(shift: float, p: float) -> None:
    assert paired_p(seeded(1.0, 2.0, 3.0), seeded(1.0 + shift, 2.0 + shift, 3.0 + shift)) == p


def test_holms_correction_is_as_in_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_arms_stand_by_their_means_each_tested_against_the_best() -> None:
    best, near = [0.30, 0.31, 0.29, 0.30], [0.31, 0.30, 0.30, 0.31]
    far = [0.50, 0.52, 0.51, 0.49]
    found = standings(compared({"far": seeded(*far), "best": seeded(*best), "near": seeded(*near)}))
    raw = [stats.ttest_rel(near, best).pvalue, stats.ttest_rel(far, best).pvalue]
    assert [s.arm.name for s in found] == ["best", "near", "far"]
    assert found[0].p is None
    assert [s.p for s in found[1:]] == pytest.approx([raw[0], 2 * raw[1]])
    assert [s.is_worse for s in found] == [False, False, True]


def test_more_is_better_where_the_mode_says_so() -> None:
    sweep = compared({"low": seeded(0.8, 0.81), "high": seeded(0.9, 0.91)}, mode="max")
    assert [s.arm.name for s in standings(sweep)] == ["high", "low"]


def test_an_arm_that_was_not_confirmed_does_not_stand() -> None:
    sweep = compared({"a": seeded(0.1, 0.2), "b": {}})
    assert [s.arm.name for s in standings(sweep)] == ["a"]
    assert standings(compared({"a": {}})) == ()


@pytest.mark.parametrize(("at_init", "mean"), [(3.0, 3.9 / 3), (None, 1.4 / 3)])
def test_a_seed_that_diverged_counts_in_the_mean_and_is_not_tested(at_init: float | None, mean: float) -> None:
    sweep = compared({"a": seeded(0.1, 0.2, 0.3), "b": seeded(0.4, INF, 0.5)}, at_init=at_init)
    _, lost = standings(sweep)
    assert lost.diverged == 1
    assert lost.interval.mean == pytest.approx(mean)
    assert lost.p is None


def test_where_every_seed_diverged_and_nothing_is_known_the_mean_is_infinite() -> None:
    found = standings(compared({"a": seeded(INF, INF), "b": seeded(0.1, 0.2)}, at_init=None))
    assert [s.interval.mean for s in found] == [pytest.approx(0.15), INF]
    assert found[1].p is None
