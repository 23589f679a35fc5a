import pytest

from stepsize.schedules.constant import constant
from stepsize.schedules.cosine import cosine
from stepsize.schedules.horizon import HorizonError
from stepsize.schedules.linear import linear
from stepsize.schedules.warmup import warmup


@pytest.mark.parametrize(
    ("step", "value"), [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (4, 1.0), (5, 0.75), (7, 0.25), (8, 0.0), (9, 0.0)]
)
def test_rises_by_equal_amounts_and_then_follows_the_schedule(step: int, value: float) -> None:
    assert warmup(linear(), warmup_steps=4)(step, 8) == value


def test_fraction_is_of_the_whole_run() -> None:
    assert [warmup(linear(), warmup_fraction=0.5)(step, 8) for step in range(10)] == [
        warmup(linear(), warmup_steps=4)(step, 8) for step in range(10)
    ]


def test_fraction_is_rounded_to_the_nearest_step() -> None:
    assert [warmup(constant(), warmup_fraction=0.05)(0, horizon) for horizon in (9, 10, 48, 50)] == [1, 1, 0.5, 1 / 3]


@pytest.mark.parametrize("arguments", [{}, {"warmup_steps": 0}, {"warmup_fraction": 0.0}])
def test_no_warmup_is_the_schedule_itself(arguments: dict) -> None:
    schedule = cosine()
    assert warmup(schedule, **arguments) is schedule


def test_giving_both_is_refused_and_names_both() -> None:
    with pytest.raises(
        ValueError, match=r"give warmup_steps or warmup_fraction, not both .*=5 and warmup_fraction=0.05"
    ):
        warmup(cosine(), warmup_steps=5, warmup_fraction=0.05)


@pytest.mark.parametrize("share", [1.5, -0.5])
def test_fraction_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"^warmup_fraction must be in \[0, 1\], got {share}$"):
        warmup(cosine(), warmup_fraction=share)


def test_negative_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^warmup_steps must be in \[0, inf\), got -1$"):
        warmup(cosine(), warmup_steps=-1)


def test_longer_than_the_run_is_refused_with_both_numbers() -> None:
    schedule = warmup(cosine(), warmup_steps=500)
    with pytest.raises(ValueError, match="warmup_steps must be at most the run's 100 steps, got 500: "):
        schedule(0, 100)


@pytest.mark.parametrize("arguments", [{"warmup_steps": 4}, {"warmup_fraction": 1.0}])
def test_over_the_whole_run_ends_and_stays_at_the_peak(arguments: dict) -> None:
    schedule = warmup(cosine(), **arguments)
    assert [schedule(step, 4) for step in range(7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]


def test_fraction_of_a_missing_horizon_is_refused() -> None:
    schedule = warmup(constant(), warmup_fraction=0.05)
    with pytest.raises(HorizonError, match=r"warmup_fraction=0.05 is a fraction.*or give schedule.warmup_steps$"):
        schedule(0, None)


def test_steps_work_without_a_horizon() -> None:
    assert [warmup(constant(), warmup_steps=2)(step, None) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_warmups_nest() -> None:
    schedule = warmup(warmup(constant(), warmup_steps=2), warmup_steps=2)
    assert [schedule(step, 10) for step in range(5)] == [0.25, 0.5, 0.5, 1.0, 1.0]
