import json
import math
import random

import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from stepsize.schedules.plateau import Plateau, plateau


def multipliers(schedule: Plateau, values: list[float]) -> list[float]:
    """The multiplier after each observed value."""
    seen = []
    for value in values:
        schedule.observe(value)
        seen.append(schedule(0, None))
    return seen


def test_drops_at_the_observation_after_patience_ran_out() -> None:
    assert multipliers(plateau(factor=0.5, patience=2), [1.0, 1.0, 1.0, 1.0, 1.0]) == [1.0, 1.0, 1.0, 0.5, 0.5]


def test_improvement_starts_the_count_anew() -> None:
    assert multipliers(plateau(factor=0.5, patience=1), [3.0, 3.0, 2.0, 2.0, 2.0]) == [1.0, 1.0, 1.0, 1.0, 0.5]


def test_drop_starts_the_count_anew() -> None:
    assert multipliers(plateau(factor=0.5, patience=1), [1.0] * 5) == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_mode_max_waits_for_a_rise() -> None:
    assert multipliers(plateau(factor=0.5, patience=0, mode="max"), [1.0, 2.0, 1.5]) == [1.0, 1.0, 0.5]


@pytest.mark.parametrize(("value", "multiplier"), [(0.91, 0.5), (0.89, 1.0)])
def test_improvement_must_exceed_the_threshold(value: float, multiplier: float) -> None:
    assert multipliers(plateau(factor=0.5, patience=0, threshold=0.1), [1.0, value])[-1] == multiplier


@pytest.mark.parametrize(("value", "multiplier"), [(-1.0, 0.5), (-1.09, 0.5), (-1.11, 1.0)])
def test_negative_metric_must_improve_by_the_threshold_too(value: float, multiplier: float) -> None:
    assert multipliers(plateau(factor=0.5, patience=0, threshold=0.1), [-1.0, value])[-1] == multiplier


def test_multiplier_stops_at_its_floor() -> None:
    assert multipliers(plateau(factor=0.5, patience=0, min_multiplier=0.3), [1.0] * 4) == [1.0, 0.5, 0.3, 0.3]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_is_no_improvement(mode: str) -> None:
    assert multipliers(plateau(factor=0.5, patience=0, mode=mode), [math.nan, 1.0, math.nan]) == [0.5, 0.5, 0.25]


def test_does_not_depend_on_step_and_horizon() -> None:
    schedule = plateau(factor=0.5, patience=0)
    multipliers(schedule, [1.0, 1.0])
    assert {schedule(step, horizon) for step in (0, 5, 50) for horizon in (None, 1, 10)} == {0.5}


def test_state_is_plain_numbers_and_survives_text() -> None:
    schedule = plateau(patience=0)
    multipliers(schedule, [1.0, 2.0])
    assert json.loads(json.dumps(schedule.state_dict())) == {"multiplier": 0.1, "best": 1.0, "num_bad": 0}


@pytest.mark.parametrize("cut", [0, 1, 7, 20])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_resume_is_identical(cut: int, mode: str) -> None:
    noise = random.Random(0)
    values = [noise.uniform(0.5, 1.5) for _ in range(40)]
    whole, first, second = (plateau(factor=0.7, patience=2, mode=mode) for _ in range(3))
    expected = multipliers(whole, values)
    seen = multipliers(first, values[:cut])
    second.load_state_dict(first.state_dict())
    assert seen + multipliers(second, values[cut:]) == expected
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("mode", ["min", "max"])
def test_equals_torch(unit_sgd: Optimizer, mode: str) -> None:
    noise = random.Random(1)
    values = [noise.uniform(0.5, 1.5) for _ in range(200)]
    scheduler = ReduceLROnPlateau(unit_sgd, mode=mode, factor=0.7, patience=2, min_lr=1e-3, eps=0.0)
    expected = []
    for value in values:
        scheduler.step(value)
        expected.append(unit_sgd.param_groups[0]["lr"])
    assert expected[-1] < 0.1
    assert multipliers(plateau(factor=0.7, patience=2, mode=mode, min_multiplier=1e-3), values) == expected
