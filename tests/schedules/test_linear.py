import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR

from stepsize.schedules.linear import linear

from .torch_multipliers import torch_multipliers


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (1, 0.75), (2, 0.5), (3, 0.25), (4, 0.0), (5, 0.0)])
def test_falls_by_equal_amounts(step: int, value: float) -> None:
    assert linear()(step, 4) == value


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (1, 0.8), (2, 0.6), (3, 0.4), (4, 0.2), (5, 0.2)])
def test_falls_to_the_final_fraction(step: int, value: float) -> None:
    assert linear(final_fraction=0.2)(step, 4) == pytest.approx(value, abs=1e-15)


def test_equals_torch(unit_sgd: Optimizer) -> None:
    expected = torch_multipliers(unit_sgd, LinearLR(unit_sgd, 1.0, 0.2, total_iters=50), 60)
    assert [linear(0.2)(step, 50) for step in range(60)] == pytest.approx(expected, rel=1e-12)
