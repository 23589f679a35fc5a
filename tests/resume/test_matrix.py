"""Every moment at which a run may be cut off, with one optimizer."""

from collections.abc import Callable

import pytest
from cutting import Cut, Run, assert_same

Made = Callable[..., Run]
pytestmark = [
    # Python 3.12 and later warn of what every DataLoader does.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # torch, where there is one core
]
# Examples are read one by one, with noise from three libraries; the network has dropout.
WORDS = ("data._target_=loaded_digits.LoadedDigits", "model.dropout=0.3", "optimizer.lr=0.01")
MOMENTS = (
    "mid-epoch",
    "last-batch",
    "in-validation",
    "before-validation",
    "after-validation",
    "epoch-end",
    "last-step",
)
SETTINGS = [(a, i, e) for a in (1, 4) for i in ("epoch", "interval") for e in ("max_epochs", "max_steps")]


def words(accumulate: int, interval: str, ends: str) -> tuple[str, ...]:
    """The words of a run of five epochs of 5 batches, which are 5 steps, or 2 where 4 batches are accumulated."""
    steps = {1: 24, 4: 9}[accumulate]  # both end with the last epoch's fourth batch
    return (
        *WORDS,
        f"trainer.accumulate_grad_batches={accumulate}",
        # An interval of 2 validates after two batches, amid an accumulation, and after four; not at the epoch's end.
        f"trainer.val_check_interval={'2' if interval == 'interval' else 'null'}",
        "trainer.max_epochs=5" if ends == "max_epochs" else f"trainer.max_steps={steps}",
    )


def moments(interval: str, ends: str) -> dict[str, Cut]:
    """A moment of each kind, one after another in such a run."""
    validated = 3 if interval == "interval" else 4
    return {
        "mid-epoch": Cut("step", 0, 2),
        "last-batch": Cut("step", 0, 4),
        "in-validation": Cut("validation", 1, validated),
        "before-validation": Cut("step", 2, validated),
        "after-validation": Cut("validated", 3, validated),
        "epoch-end": Cut("epoch", 3, 4),
        "last-step": Cut("step", 4, 3 if ends == "max_steps" else validated),
    }


@pytest.mark.parametrize(("accumulate", "interval", "ends"), SETTINGS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_was_cut_off_equals_one_that_was_not(
    whole: Made, cut_off: Made, moment: str, accumulate: int, interval: str, ends: str
) -> None:
    given = words(accumulate, interval, ends)
    assert_same(cut_off([moments(interval, ends)[moment]], *given), whole(*given))


@pytest.mark.parametrize(("accumulate", "interval", "ends"), SETTINGS)
def test_one_read_by_workers_and_cut_off_at_all_moments_equals_one_that_was_neither(
    whole: Made, cut_off: Made, accumulate: int, interval: str, ends: str
) -> None:
    given = words(accumulate, interval, ends)
    run = cut_off([moments(interval, ends)[moment] for moment in MOMENTS], *given, "+data.num_workers=2")
    assert_same(run, whole(*given))
