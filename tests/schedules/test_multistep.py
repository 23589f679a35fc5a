import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from stepsize.schedules.multistep import multistep

from .torch_multipliers import torch_multipliers


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (49, 1.0), (50, 0.1), (74, 0.1), (75, 0.01), (100, 0.01)])
def test_default_drops_to_a_tenth_at_half_and_at_three_quarters(step: int, value: float) -> None:
    assert multistep()(step, 100) == pytest.approx(value, rel=1e-12)


def test_milestone_beyond_the_horizon_is_never_reached() -> None:
    assert multistep(0.5, milestone_steps=[3, 20])(30, 10) == 0.5


def test_milestone_before_the_first_step_waits_for_step_1() -> None:
    schedule = multistep(0.5, milestone_fractions=[0.01])
    assert [schedule(0, 10), schedule(1, 10)] == [1.0, 0.5]


def test_equals_torch_without_a_horizon(unit_sgd: Optimizer) -> None:
    expected = torch_multipliers(unit_sgd, MultiStepLR(unit_sgd, milestones=[5, 6, 40], gamma=0.5), 60)
    assert [multistep(0.5, milestone_steps=[5, 6, 40])(step, None) for step in range(60)] == expected
