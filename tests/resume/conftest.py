"""Runs that are not cut off, made once for all tests that compare with them, and runs that are."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

pytest.register_assert_rewrite("cutting", "training_commands")
# Where train.py would find them by PYTHONPATH.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from cutting import Cut, Run, composed, joined, trained  # noqa: E402 - found only now

from training_commands import Commands  # noqa: E402

Made = Callable[..., Run]
SHORT = (
    "trainer=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.limit_train_batches=5",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=1",
    "trainer.log_every_n_steps=3",
)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """whole("optimizer=sgd", ...) is a short run that is not cut off."""
    return cache(lambda *words: trained(composed((*SHORT, *words), tmp_path_factory.mktemp("whole") / "run")))


@pytest.fixture
def cut_off(tmp_path: Path) -> Made:
    """cut_off([Cut(...)], "optimizer=sgd", ...) is the same, cut off at each of the moments and then gone on with."""

    def make(cuts: Sequence[Cut], *words: str) -> Run:
        return joined([trained(composed((*SHORT, *words), tmp_path / "run", "auto"), cut) for cut in (*cuts, None)])

    return make


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """Commands in the test's folder, none of which outlives it."""
    made = Commands(tmp_path)
    yield made
    made.kill_all()
