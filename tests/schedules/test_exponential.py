import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from stepsize.schedules.exponential import exponential

from .torch_multipliers import torch_multipliers


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (1, 0.1), (2, 0.01), (3, 0.01)])
def test_falls_by_equal_factors_to_a_hundredth(step: int, value: float) -> None:
    assert exponential()(step, 2) == pytest.approx(value, rel=1e-12)


def test_equals_torch_until_the_horizon(unit_sgd: Optimizer) -> None:
    expected = torch_multipliers(unit_sgd, ExponentialLR(unit_sgd, gamma=0.5 ** (1 / 50)), 51)
    assert [exponential(0.5)(step, 50) for step in range(51)] == pytest.approx(expected, rel=1e-12)
