import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

from stepsize.sweep.plan import Plan
from stepsize.sweep.samplers import _value, position
from stepsize.sweep.storage import connect
from stepsize.sweep.study import Study

optuna.logging.set_verbosity(optuna.logging.ERROR)

RATE = "optimizer.lr"
Planned = Callable[..., Plan]


def run(study: Study, best: float, limit: int = 100) -> list[float]:
    """Run the study to its end, where the loss is least at `best`; returns the learning rates tried."""
    sign = 1 if study.plan.mode == "min" else -1
    tried = []
    while not study.is_complete():
        claimed = study.claim()
        assert claimed is not None
        assert len(tried) < limit
        tried.append(claimed.params[RATE])
        study.tell(claimed, sign * abs(math.log10(tried[-1] / best)), 1.0)
    return tried


def widened(study: Study) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = study.study.user_attrs.get("widened", [])
    return found


@pytest.mark.parametrize(
    ("best", "end", "ends", "added"),
    [
        (10**-4.5, "low", (1e-5, 1.0), [10**-4.5, 1e-5]),
        (3.0, "high", (1e-4, 10.0), [10**0.5, 10.0]),
    ],
)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_grid_goes_on_into_the_decade_beyond_the_end_where_the_best_lies(
    url: str, plan: Planned, best: float, end: str, ends: tuple[float, float], added: list[float], mode: str
) -> None:
    study = Study(connect(url), plan(mode=mode))
    tried = run(study, best)
    first = {k: v for k, v in widened(study)[0].items() if k != "values"}
    assert first == {"end": end, "low": ends[0], "high": ends[1], "at": 9, "trials": 2}
    assert tried[9:11] == pytest.approx(added, rel=1e-9)
    assert (sorted(tried[:9]), study.finished()) == (pytest.approx([10 ** (-k / 2) for k in range(8, -1, -1)]), 11)


@pytest.mark.parametrize(
    ("best", "low", "high", "sampler", "n_trials"),
    [(1e-9, 1e-6, 1.0, "grid", 9), (1e9, 1e-4, 100.0, "grid", 9), (1e-9, 1e-6, 1.0, "tpe", 16)],
)
def test_an_end_moves_by_two_decades_at_most(
    url: str, plan: Planned, best: float, low: float, high: float, sampler: str, n_trials: int
) -> None:
    study = Study(connect(url), plan(sampler=sampler, n_trials=n_trials))
    run(study, best)
    space: Any = study.space()[RATE]
    assert (len(widened(study)), space.low, space.high) == (2, low, high)
    assert study.finished() == n_trials + sum(event["trials"] for event in widened(study))


def test_tpe_draws_a_quarter_as_many_trials_from_the_wider_range(url: str, plan: Planned) -> None:
    study = Study(connect(url), plan(sampler="tpe", n_trials=12))
    tried = run(study, 1e-9)
    assert [(event["trials"], event["values"], event["at"]) for event in widened(study)] == [(3, [], 12), (3, [], 15)]
    assert (min(tried[:12]) >= 1e-4, min(tried[12:15]) >= 1e-5, min(tried) < 1e-4) == (True, True, True)


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_best_inside_the_range_widens_nothing(url: str, plan: Planned, sampler: str) -> None:
    study = Study(connect(url), plan(sampler=sampler))
    assert (len(run(study, 1e-2)), widened(study)) == (9, [])


def test_a_range_that_was_typed_is_never_widened(url: str, plan: Planned) -> None:
    study = Study(connect(url), plan(rate=None))
    assert (len(run(study, 1e-9)), widened(study)) == (9, [])


def test_where_all_trials_diverged_nothing_says_which_way_to_go(url: str, plan: Planned) -> None:
    study = Study(connect(url), plan(n_trials=3))
    for _ in range(3):
        study.tell_diverged(study.claim(), "nan", 1.0)  # type: ignore[arg-type]
    assert (study.is_complete(), widened(study)) == (True, [])


def test_two_processes_that_widen_at_once_agree(url: str, plan: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (Study(connect(url), plan(n_trials=3)) for _ in range(2))
    for _ in range(3):
        claimed = one.claim()
        assert claimed is not None
        one.tell(claimed, claimed.params[RATE], 1.0)
    said: list[Any] = []
    for study in (one, other):  # neither has seen what the other wrote
        monkeypatch.setattr(study.study, "set_user_attr", lambda key, value: said.append(value))
        assert study.is_complete() is False
    assert (len(said), said[0]) == (2, said[1])


def test_a_surplus_trial_takes_its_place_among_the_added_ones(url: str, plan: Planned) -> None:
    study = Study(connect(url), plan(n_trials=3))
    for _ in range(4):  # as where two processes add trials at once
        study._storage.create_new_trial(
            study._id, template_trial=optuna.create_trial(state=optuna.trial.TrialState.WAITING)
        )
    tried = run(study, 1e-5)
    event = widened(study)[0]
    assert tried[3 : 3 + event["trials"]] == event["values"]


def test_a_study_that_was_widened_and_is_extended_counts_exactly(url: str, plan: Planned) -> None:
    first = run(Study(connect(url), plan()), 1e-4 / 3)
    longer = Study(connect(url), plan(n_trials=16))
    tried = run(longer, 1e-4 / 3)
    added = sum(event["trials"] for event in widened(longer))
    assert (len(first), len(tried), longer.finished()) == (11, 16 + added - 11, 16 + added)
    grid = FloatDistribution(1e-4, 1.0, log=True)
    beyond = [rate for event in widened(longer) for rate in event["values"]]
    within = [rate for rate in first + tried if rate not in beyond]
    assert sorted(within) == sorted(_value(grid, position(k)) for k in range(16))


def test_a_widened_study_is_gone_on_with_by_the_same_plan(url: str, plan: Planned) -> None:
    study = Study(connect(url), plan(n_trials=3))
    for _ in range(3):
        claimed = study.claim()
        assert claimed is not None
        study.tell(claimed, claimed.params[RATE], 1.0)
    assert study.is_complete() is False
    again = Study(connect(url), plan(n_trials=3))
    claimed = again.claim()
    assert claimed is not None
    assert claimed.params[RATE] == widened(again)[0]["values"][0]
