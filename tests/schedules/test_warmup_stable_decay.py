import pytest

from stepsize.schedules.warmup import warmup
from stepsize.schedules.warmup_stable_decay import warmup_stable_decay


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (80, 1.0), (85, 0.5), (100, 0.0), (101, 0.0)])
def test_default_falls_over_the_last_fifth_as_one_minus_a_root(step: int, value: float) -> None:
    assert warmup_stable_decay()(step, 100) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(("step", "value"), [(84, 1.0), (85, 0.8), (88, 0.6), (93, 0.4), (100, 0.2)])
def test_falls_over_decay_steps_to_the_final_fraction(step: int, value: float) -> None:
    # sqrt of 1/16, 4/16, 9/16 and 1, of a fall by 0.8
    assert warmup_stable_decay(decay_steps=16, final_fraction=0.2)(step, 100) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("horizon", [3, 7, 10, 999, 12345])
def test_ends_exactly_at_0_for_a_fall_of_no_whole_steps(horizon: int) -> None:
    assert warmup_stable_decay(decay_fraction=0.3)(horizon, horizon) == 0.0


def test_extending_the_run_leaves_the_stable_stretch_as_it_was() -> None:
    schedule = warmup(warmup_stable_decay(decay_steps=10), warmup_steps=5)
    assert [schedule(step, 100) for step in range(91)] == [schedule(step, 200) for step in range(91)]


def test_decay_longer_than_what_the_warmup_leaves_is_refused_with_both_numbers() -> None:
    schedule = warmup(warmup_stable_decay(decay_steps=99), warmup_steps=5)
    with pytest.raises(ValueError, match="decay_steps must be at most the 95 steps that the warmup leaves, got 99: "):
        schedule(0, 100)
