import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from stepsize.schedules.cosine import cosine
from stepsize.schedules.cosine_restarts import cosine_restarts

from .torch_multipliers import torch_multipliers


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (1, 0.5), (2, 1.0), (3, 0.5), (7, 0.5), (8, 0.0), (9, 0.0)])
def test_default_is_four_equal_falls(step: int, value: float) -> None:
    assert cosine_restarts()(step, 8) == pytest.approx(value, abs=1e-15)


def test_cycles_that_grow_fill_the_horizon() -> None:
    # lengths 2, 4 and 8 of 14 steps
    schedule = cosine_restarts(num_cycles=3, cycle_factor=2.0)
    assert [schedule(step, 14) for step in (0, 1, 2, 4, 6, 10, 14)] == pytest.approx([1, 0.5, 1, 0.5, 1, 0.5, 0])


def test_every_cycle_starts_at_1_where_lengths_are_no_whole_steps() -> None:
    # a third of 100: restarts at 33 and 67
    assert [step for step in range(101) if cosine_restarts(num_cycles=3)(step, 100) == 1.0] == [0, 33, 67]


def test_one_cycle_is_cosine() -> None:
    assert [cosine_restarts(1, 1.0, 0.1)(step, 9) for step in range(11)] == [cosine(0.1)(step, 9) for step in range(11)]


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_run_of_fewer_steps_than_cycles_starts_at_1_and_ends_at_0(horizon: int) -> None:
    schedule = cosine_restarts(num_cycles=4)
    assert [schedule(0, horizon), schedule(horizon, horizon)] == [1.0, 0.0]


@pytest.mark.parametrize(("growth", "horizon"), [(1, 30), (2, 70)])
def test_equals_torch_until_the_horizon(unit_sgd: Optimizer, growth: int, horizon: int) -> None:
    scheduler = CosineAnnealingWarmRestarts(unit_sgd, T_0=10, T_mult=growth, eta_min=0.1)
    expected = torch_multipliers(unit_sgd, scheduler, horizon)
    schedule = cosine_restarts(num_cycles=3, cycle_factor=float(growth), final_fraction=0.1)
    assert [schedule(step, horizon) for step in range(horizon)] == pytest.approx(expected, rel=1e-12)
