"""Every schedule of the table, behind a warmup."""

from collections.abc import Callable

import pytest
from cutting import Cut, Run, assert_same

from stepsize.schedules import SCHEDULES

Made = Callable[..., Run]
WORDS = ("optimizer.lr=0.01", "schedule.warmup_steps=7", "trainer.max_epochs=4")


@pytest.mark.parametrize("word", SCHEDULES)
@pytest.mark.parametrize("cut", [Cut("step", 1, 0), Cut("step", 2, 2)], ids=["in-warmup", "later"])
def test_every_schedule_goes_on_from_the_middle_of_an_epoch(whole: Made, cut_off: Made, word: str, cut: Cut) -> None:
    words = (*WORDS, f"schedule={word}")
    assert_same(cut_off([cut], *words), whole(*words))


@pytest.mark.parametrize(
    "cut", [Cut("step", 3, 2), Cut("step", 3, 4), Cut("validation", 3, 4), Cut("validated", 3, 4)], ids=str
)
def test_a_plateau_goes_on_with_what_it_has_observed(whole: Made, cut_off: Made, cut: Cut) -> None:
    # Hardly anything is an improvement: lr falls by half after each second validation.
    words = ("schedule=plateau", "schedule.patience=1", "schedule.threshold=0.9", "schedule.factor=0.5")
    words = (*words, "optimizer.lr=0.01", "trainer.max_epochs=6")
    expected = whole(*words)
    assert len({seen.lr for seen in expected.seen}) >= 3
    assert_same(cut_off([cut], *words), expected)
