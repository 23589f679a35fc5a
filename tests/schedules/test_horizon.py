import pytest

from stepsize.schedules.horizon import HorizonError, hold, progress, require_horizon


def test_horizon_error_is_a_value_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="schedule=cosine needs a finite run to know its end: set trainer") as error:
        require_horizon(None, "cosine")
    assert isinstance(error.value, HorizonError)
    assert str(error.value).endswith("or take schedule=constant, inverse_sqrt or plateau")


def test_a_given_horizon_is_returned() -> None:
    assert require_horizon(7, "cosine") == 7


@pytest.mark.parametrize(("step", "horizon", "held"), [(0, 4, 0), (4, 4, 4), (9, 4, 4), (9, None, 9), (3, 0, 0)])
def test_a_step_is_held_at_the_horizon(step: int, horizon: int | None, held: int) -> None:
    assert hold(step, horizon) == held


@pytest.mark.parametrize(("step", "length", "share"), [(0, 4, 0), (1, 4, 0.25), (4, 4, 1), (9, 4, 1), (0, 0, 0)])
def test_progress_is_the_share_done(step: int, length: int, share: float) -> None:
    assert progress(step, length) == share
