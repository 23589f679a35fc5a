import pytest

from stepsize.schedules.inverse_sqrt import inverse_sqrt
from stepsize.schedules.warmup import warmup


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (300, 0.5), (800, 1 / 3), (1500, 0.25)])
def test_is_one_over_the_root_of_elapsed_timescales(step: int, value: float) -> None:
    assert inverse_sqrt(timescale_steps=100)(step, None) == pytest.approx(value, rel=1e-15)


def test_keeps_its_value_at_a_horizon() -> None:
    assert inverse_sqrt(timescale_steps=100)(10_000, 300) == 0.5


def test_default_timescale_is_10000_steps() -> None:
    assert inverse_sqrt()(30_000, None) == 0.5


def test_with_a_warmup_of_its_timescale_is_the_transformer_schedule() -> None:
    # Vaswani et al. 2017, equation 3, steps counted from 1, scaled to a peak of 1; ours holds the peak for two steps.
    warmup_steps = 40
    schedule = warmup(inverse_sqrt(warmup_steps), warmup_steps)
    rising = [min(s**-0.5, s * warmup_steps**-1.5) * warmup_steps**0.5 for s in range(1, 41)]
    falling = [min(s**-0.5, s * warmup_steps**-1.5) * warmup_steps**0.5 for s in range(40, 200)]
    assert [schedule(step, None) for step in range(200)] == pytest.approx(rising + falling, rel=1e-12)
