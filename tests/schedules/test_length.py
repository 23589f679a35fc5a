import pytest

from stepsize.schedules.horizon import HorizonError
from stepsize.schedules.length import nearest_step, steps_or_fraction

from .cases import factory


def test_steps_do_not_depend_on_the_horizon() -> None:
    length = steps_or_fraction("every", 30, None, default_fraction=0.5)
    assert [length(None), length(10), length(1000)] == [30, 30, 30]


def test_fraction_is_of_the_horizon() -> None:
    assert steps_or_fraction("every", None, 0.25, default_fraction=0.5)(200) == 50


def test_neither_is_the_default_fraction() -> None:
    assert steps_or_fraction("every", None, None, default_fraction=0.5)(200) == 100


def test_fraction_of_a_missing_horizon_names_what_to_give_instead() -> None:
    length = steps_or_fraction("every", None, 0.25, default_fraction=0.5)
    with pytest.raises(HorizonError, match=r"every_fraction=0.25 is a fraction.*or give schedule.every_steps$"):
        length(None)


@pytest.mark.parametrize(
    ("word", "steps", "fraction"),
    [
        ("step", {"every_steps": 5}, {"every_fraction": 0.5}),
        ("multistep", {"milestone_steps": [5]}, {"milestone_fractions": [0.5]}),
        ("warmup_stable_decay", {"decay_steps": 5}, {"decay_fraction": 0.5}),
    ],
)
def test_giving_both_is_refused_and_names_both(word: str, steps: dict, fraction: dict) -> None:
    with pytest.raises(ValueError, match=f"give {next(iter(steps))} or {next(iter(fraction))}, not both"):
        factory(word)(**steps, **fraction)


@pytest.mark.parametrize(("length", "step"), [(0.4, 0), (0.5, 1), (2.5, 3), (7.000000000000001, 7)])
def test_nearest_step_rounds_halves_up(length: float, step: int) -> None:
    assert nearest_step(length) == step
