import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from stepsize.schedules.cosine import cosine

from .torch_multipliers import torch_multipliers

# cos(π/4) = sqrt(2)/2
POINTS = [(0, 1.0), (1, 0.8535533905932737), (2, 0.5), (3, 0.14644660940672624), (4, 0.0), (5, 0.0), (8, 0.0)]


@pytest.mark.parametrize(("step", "value"), POINTS)
def test_follows_half_a_cosine_and_stays_down(step: int, value: float) -> None:
    assert cosine()(step, 4) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (2, 0.6), (4, 0.2)])
def test_falls_to_the_final_fraction(step: int, value: float) -> None:
    assert cosine(final_fraction=0.2)(step, 4) == pytest.approx(value, abs=1e-15)


def test_equals_torch_until_the_horizon(unit_sgd: Optimizer) -> None:
    expected = torch_multipliers(unit_sgd, CosineAnnealingLR(unit_sgd, T_max=50, eta_min=0.1), 51)
    assert [cosine(0.1)(step, 50) for step in range(51)] == pytest.approx(expected, rel=1e-10)
