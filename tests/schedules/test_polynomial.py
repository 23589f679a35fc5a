import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import PolynomialLR

from stepsize.schedules.linear import linear
from stepsize.schedules.polynomial import polynomial

from .torch_multipliers import torch_multipliers


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (1, 0.5625), (2, 0.25), (3, 0.0625), (4, 0.0), (5, 0.0)])
def test_is_the_square_of_the_share_left(step: int, value: float) -> None:
    assert polynomial()(step, 4) == value


def test_falls_to_the_final_fraction() -> None:
    assert [polynomial(3.0, 0.2)(step, 2) for step in (0, 1, 2)] == pytest.approx([1.0, 0.3, 0.2], abs=1e-15)


def test_power_1_is_linear() -> None:
    assert [polynomial(1.0, 0.2)(step, 7) for step in range(9)] == [linear(0.2)(step, 7) for step in range(9)]


def test_equals_torch(unit_sgd: Optimizer) -> None:
    expected = torch_multipliers(unit_sgd, PolynomialLR(unit_sgd, total_iters=50, power=0.9), 60)
    assert [polynomial(0.9)(step, 50) for step in range(60)] == pytest.approx(expected, rel=1e-10)
