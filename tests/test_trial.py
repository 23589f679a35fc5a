import pytest

from stepsize import trial
from stepsize.trial import VARIABLE, Follower, current, follows, reporting_to


class Tried:
    """A trial of a sweep."""

    def __init__(self) -> None:
        self.params: dict[str, float] = {}
        self.wants_start = False

    def report(self, step: int, value: float) -> bool:
        return True

    def report_start(self, value: float) -> None:
        pass


@pytest.fixture(autouse=True)
def _outside_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VARIABLE, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert trial.current() is None


def test_inside_the_block_there_is_a_trial_and_after_it_there_is_none() -> None:
    first, second = Tried(), Tried()
    with reporting_to(first):
        assert current() is first
        with reporting_to(second):
            assert current() is second
        assert current() is first
    assert current() is None


def test_an_error_ends_the_block_too() -> None:
    with pytest.raises(RuntimeError, match="raised"), reporting_to(Tried()):
        raise RuntimeError("raised")
    assert current() is None


@pytest.mark.parametrize(
    ("environment", "is_follower"),
    [
        ({}, False),
        ({VARIABLE: "study:3"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({VARIABLE: "study:3", "LOCAL_RANK": "0"}, False),
        ({VARIABLE: "study:3", "LOCAL_RANK": "1"}, True),
    ],
)
def test_only_a_further_process_of_a_trial_follows(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], is_follower: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (follows(), isinstance(current(), Follower)) == (is_follower, is_follower)


def test_a_follower_never_stops_a_run_and_wants_nothing() -> None:
    follower = Follower()
    assert [follower.report(step, value) for step, value in ((0, 1e9), (10, float("nan")))] == [False, False]
    follower.report_start(1.0)
    assert (follower.wants_start, follower.params) == (False, {})
