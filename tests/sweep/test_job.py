import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from stepsize import trial
from stepsize.sweep import job
from stepsize.sweep.job import Ended, TrialTask
from stepsize.sweep.storage import connect, file_url

Run = Callable[..., Ended]


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(study_name="s", storage=connect(file_url(tmp_path)))
    made._storage.create_new_trial(made._study_id)
    return made


@pytest.fixture
def run(study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a task as trial 0 of the study, of which its starter knows what is given as keywords."""

    def trial_of(task: Callable[[Any], Any], url: str | None = None, pruner: str = "none", **known: Any) -> Ended:
        monkeypatch.setenv(trial.VARIABLE, "s:0")
        if known:
            monkeypatch.setenv(job.KNOWN, json.dumps(known))
        return TrialTask(task, url or file_url(tmp_path), pruner)(None)

    return trial_of


def reports(cfg: Any) -> float:
    current = trial.current()
    assert current is not None
    for step in (1, 2, 2):
        assert not current.report(step, step / 2)
    return 0.5


def stored(study: optuna.Study) -> dict[int, float]:
    return study.trials[0].intermediate_values


def test_a_short_trial_hands_over_what_it_reported_and_opens_no_storage(run: Run) -> None:
    ended = run(reports, url="sqlite:////no/such/folder/study.db")
    assert (ended.how, ended.value, ended.reports) == ("complete", 0.5, {1: 0.5, 2: 1.0})


def test_what_the_starter_knows_is_not_asked_of_the_storage(run: Run) -> None:
    def look(cfg: Any) -> float:
        current = trial.current()
        assert current is not None
        return float(current.params["lr"]) if current.wants_start else 0.0

    assert run(look, url="sqlite:////no/such/folder/study.db", params={"lr": 0.1}, wants_start=True).value == 0.1


def test_a_longer_trial_writes_what_it_reports_while_it_runs(
    run: Run, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_WRITE_EVERY", 0.01)

    def wait(cfg: Any) -> float:
        value = reports(cfg)
        while not stored(study):
            pass
        return value

    assert run(wait).reports == {}
    assert stored(study) == {1: 0.5, 2: 1.0}


def test_what_a_trial_reported_before_it_raised_is_written(run: Run, study: optuna.Study) -> None:
    def fail(cfg: Any) -> float:
        reports(cfg)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run(fail)
    assert stored(study) == {1: 0.5, 2: 1.0}


def test_a_pruner_hears_of_each_report_at_once(run: Run, study: optuna.Study) -> None:
    def watch(cfg: Any) -> float:
        current = trial.current()
        assert current is not None
        current.report(1, 0.5)
        return float(len(stored(study)))

    assert run(watch, pruner="median").value == 1
