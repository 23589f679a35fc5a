"""What every schedule promises, checked for each word of the table without a branch on its name."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepsize.schedules.horizon import HorizonError
from stepsize.schedules.warmup import warmup

from .cases import ARGUMENTS, ENDLESS, START, make

CASES = pytest.mark.parametrize("case", ARGUMENTS)
HORIZONS = st.integers(0, 10**7)
STEPS = st.integers(0, 2 * 10**7)
# No deadline: a busy machine is no defect of a formula.
SEEDED = settings(derandomize=True, deadline=None, database=None, max_examples=60)


@CASES
@SEEDED
@given(step=STEPS, horizon=HORIZONS)
def test_multiplier_is_in_0_1(case: str, step: int, horizon: int) -> None:
    value = make(case)(step, horizon)
    assert isinstance(value, float)
    assert 0.0 <= value <= 1.0


@CASES
@SEEDED
@given(step=st.integers(0, 60), horizon=st.integers(0, 30), warmup_steps=st.integers(0, 30))
def test_multiplier_with_warmup_is_in_0_1(case: str, step: int, horizon: int, warmup_steps: int) -> None:
    assert 0.0 <= warmup(make(case), warmup_steps)(step, horizon + warmup_steps) <= 1.0


@CASES
@SEEDED
@given(horizon=st.integers(1, 10**7))
def test_step_0_is_the_start(case: str, horizon: int) -> None:
    assert make(case)(0, horizon) == pytest.approx(START.get(case, 1.0), abs=1e-12)


@CASES
@SEEDED
@given(step=STEPS, horizon=HORIZONS)
def test_same_arguments_give_the_same_value(case: str, step: int, horizon: int) -> None:
    schedule = make(case)
    first = schedule(step, horizon)
    schedule(step + 1, horizon + 1)
    assert schedule(step, horizon) == first == make(case)(step, horizon)


@CASES
@SEEDED
@given(horizon=HORIZONS, after=st.integers(1, 10**7))
def test_after_the_horizon_the_end_value_stays(case: str, horizon: int, after: int) -> None:
    schedule = make(case)
    assert schedule(horizon + after, horizon) == schedule(horizon, horizon)


@CASES
@SEEDED
@given(after=st.integers(0, 100), horizon=st.integers(1, 30), share=st.floats(0, 1))
def test_after_the_horizon_the_end_value_stays_with_warmup(case: str, after: int, horizon: int, share: float) -> None:
    schedule = warmup(make(case), warmup_fraction=share)
    assert schedule(horizon + after, horizon) == schedule(horizon, horizon)


@CASES
@SEEDED
@given(horizon=st.integers(1, 1000))
def test_last_step_taken_is_not_wasted(case: str, horizon: int) -> None:
    assert make(case)(horizon - 1, horizon) > 0


@CASES
def test_horizon_1_takes_its_one_step_at_the_start(case: str) -> None:
    assert make(case)(0, 1) == pytest.approx(START.get(case, 1.0), abs=1e-12)


@CASES
def test_first_warmup_step_is_one_share_of_the_start(case: str) -> None:
    schedule = make(case)
    assert warmup(schedule, 4)(0, 100) == schedule(0, 96) / 4


@CASES
def test_warmup_meets_the_schedule_at_its_start(case: str) -> None:
    schedule = make(case)
    joined = warmup(schedule, 4)
    assert [joined(3, 100), joined(4, 100)] == [schedule(0, 96)] * 2


@CASES
@SEEDED
@given(step=st.integers(0, 200))
def test_after_warmup_the_schedule_runs_over_the_steps_left(case: str, step: int) -> None:
    schedule = make(case)
    assert warmup(schedule, 4)(step + 4, 100) == schedule(step, 96)


@CASES
def test_negative_step_is_refused(case: str) -> None:
    schedule = make(case)
    with pytest.raises(AssertionError, match="step must be at least 0, got -1"):
        schedule(-1, 100)


@pytest.mark.parametrize("case", sorted(ENDLESS))
@SEEDED
@given(step=STEPS)
def test_works_without_a_horizon(case: str, step: int) -> None:
    assert math.isfinite(warmup(make(case), 5)(step, None))
    assert make(case)(step, None) == make(case)(step, 10**8)


@pytest.mark.parametrize("case", sorted(set(ARGUMENTS) - ENDLESS))
def test_missing_horizon_is_refused_with_the_remedy(case: str) -> None:
    schedule = make(case)
    with pytest.raises(HorizonError, match=r"needs a finite.*: set trainer.max_steps or trainer.max_epochs .*, or "):
        schedule(0, None)
