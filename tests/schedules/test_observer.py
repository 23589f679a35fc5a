import pytest

from stepsize.schedules import SCHEDULES
from stepsize.schedules.observer import observer
from stepsize.schedules.plateau import plateau
from stepsize.schedules.warmup import warmup

from .cases import make


def test_plateau_is_its_own_observer() -> None:
    schedule = plateau()
    assert observer(schedule) is schedule


def test_observer_is_found_behind_warmups() -> None:
    schedule = plateau()
    assert observer(warmup(warmup(schedule, warmup_steps=3), warmup_fraction=0.1)) is schedule


@pytest.mark.parametrize("word", sorted(set(SCHEDULES) - {"plateau"}))
def test_pure_functions_observe_nothing(word: str) -> None:
    assert observer(warmup(make(word), warmup_steps=3)) is None


def test_what_is_observed_moves_the_joined_schedule_during_warmup_and_after() -> None:
    schedule = plateau(factor=0.5, patience=0)
    joined = warmup(schedule, warmup_steps=4)
    before = [joined(0, None), joined(9, None)]
    schedule.observe(1.0)
    schedule.observe(1.0)
    assert [before, [joined(0, None), joined(9, None)]] == [[0.25, 1.0], [0.125, 0.5]]
