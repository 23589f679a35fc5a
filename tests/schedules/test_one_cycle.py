import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from stepsize.schedules.one_cycle import one_cycle

from .torch_multipliers import torch_multipliers

POINTS = [(0, 0.04), (15, 0.52), (30, 1.0), (65, 0.500002), (100, 4e-6), (101, 4e-6)]


@pytest.mark.parametrize(("step", "value"), POINTS)
def test_rises_to_the_peak_and_falls_to_the_end(step: int, value: float) -> None:
    assert one_cycle()(step, 100) == pytest.approx(value, rel=1e-12)


def test_equals_torch_with_its_defaults(unit_sgd: Optimizer) -> None:
    # torch's last of 101 steps is our horizon of 100, and its peak lies at 101 pct_start - 1.
    scheduler = OneCycleLR(unit_sgd, max_lr=1.0, total_steps=101, pct_start=31 / 101, cycle_momentum=False)
    expected = torch_multipliers(unit_sgd, scheduler, 101)
    assert [one_cycle(peak_fraction=0.3)(step, 100) for step in range(101)] == pytest.approx(expected, rel=1e-9)
