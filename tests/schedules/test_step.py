import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR

from stepsize.schedules.step import step

from .torch_multipliers import torch_multipliers


@pytest.mark.parametrize(("at", "value"), [(0, 1.0), (32, 1.0), (33, 0.1), (66, 0.1), (67, 0.01), (99, 0.01)])
def test_default_drops_to_a_tenth_at_each_third(at: int, value: float) -> None:
    assert step()(at, 100) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("share", [0.07, 0.1, 0.29, 0.57, 0.58])
def test_fraction_that_is_no_binary_number_drops_at_its_whole_step(share: float) -> None:
    first = round(share * 100)
    assert [step(0.5, every_fraction=share)(at, 100) for at in (first - 1, first)] == [1.0, 0.5]


def test_length_of_one_step_drops_at_every_step() -> None:
    assert [step(0.5, every_steps=1)(at, None) for at in range(4)] == [1.0, 0.5, 0.25, 0.125]


def test_run_shorter_than_its_number_of_drops_still_starts_at_1() -> None:
    assert step(0.5)(0, 2) == 1.0


def test_equals_torch_without_a_horizon(unit_sgd: Optimizer) -> None:
    expected = torch_multipliers(unit_sgd, StepLR(unit_sgd, step_size=7, gamma=0.5), 60)
    assert [step(0.5, every_steps=7)(at, None) for at in range(60)] == expected
