import math
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from stepsize.errors import ConfigError
from stepsize.sweep import liveness
from stepsize.sweep.lasting import LastingStorage
from stepsize.sweep.liveness import is_gone, this_process
from stepsize.sweep.plan import COUNTED, Claimed, Plan
from stepsize.sweep.storage import connect
from stepsize.sweep.study import Study

Planned = Callable[..., Plan]

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def opened(url: str, plan: Planned) -> Callable[..., Study]:
    """opened(n_trials=4, ...) is a study as one more process opens it, of four trials and no widening."""

    def open_(**changes: Any) -> Study:
        return Study(connect(url), plan(**{"n_trials": 4, "rate": None, **changes}))

    return open_


def states(study: Study) -> list[str]:
    return [t.state.name for t in study.trials()]


def claimed(study: Study) -> Claimed:
    found = study.claim()
    assert found is not None
    return found


def died() -> dict[str, Any]:
    """What was known of a process that was then killed with SIGKILL."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        known = {**this_process(), "pid": child.pid, "born": liveness._born(child.pid)}
        assert not is_gone(known)
        child.send_signal(signal.SIGKILL)
    return known


def test_two_processes_that_take_turns_never_get_the_same_trial(opened: Callable[..., Study]) -> None:
    one, other = opened(), opened()
    numbers = [claimed(study).number for study in (one, other, other, one)]
    assert sorted(numbers) == [0, 1, 2, 3]
    assert (one.claim(), other.claim()) == (None, None)


def test_a_trial_that_another_claims_between_looking_and_claiming_is_left_to_it(
    opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = opened(n_trials=2), opened(n_trials=2)
    claimed(one)
    one.put_back(claimed(one))
    seen = one.trials()
    monkeypatch.setattr(one, "trials", lambda: seen)
    assert (claimed(other).number, one.claim()) == (1, None)


def test_a_trial_that_another_has_finished_between_looking_and_claiming_is_left_to_it(
    opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = opened(n_trials=1), opened(n_trials=1)
    one.put_back(claimed(one))
    seen = one.trials()
    other.tell(claimed(other), 1.0, 1.0)
    monkeypatch.setattr(one, "trials", lambda: seen)
    assert one.claim() is None
    assert states(other) == ["COMPLETE"]


ENDS: dict[str, Callable[[Study, Claimed], object]] = {
    "tell": lambda study, trial: study.tell(trial, 1.0, 1.0),
    "prune": lambda study, trial: study.tell(trial, 1.0, 1.0, pruned=True),
    "diverge": lambda study, trial: study.tell_diverged(trial, "nan", 1.0),
    "raise": lambda study, trial: study.tell_failed(trial, "raised", 1.0),
    "kill": lambda study, trial: study.tell_failed(trial, "killed", 1.0, retry=True),
    "put back": lambda study, trial: study.put_back(trial),
}


def test_one_that_loses_the_last_waiting_trial_makes_another(
    opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepsize.sweep.study._AHEAD", 2)
    one, other = opened(), opened()
    claimed(one)
    look, looks = one.trials, [one.trials()]  # one trial waits
    assert claimed(other).number == 1
    monkeypatch.setattr(one, "trials", lambda: looks.pop() if looks else look())
    assert claimed(one).number == 2
    assert states(other) == ["RUNNING", "RUNNING", "RUNNING", "WAITING"]


def test_few_trials_wait_however_many_are_wanted(opened: Callable[..., Study]) -> None:
    study = opened(n_trials=1000)
    claimed(study)
    assert states(study) == ["RUNNING", *["WAITING"] * 15]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ahead", [1, 2, 16])
def test_any_interleaving_of_three_processes_finishes_exactly_what_is_wanted(
    opened: Callable[..., Study], seed: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepsize.sweep.study._AHEAD", ahead)
    chance = random.Random(seed)
    target = 5
    studies = [opened(n_trials=target, sampler="random") for _ in range(3)]
    held: list[tuple[Study, Claimed]] = []
    numbers: list[int] = []
    for _ in range(40):
        match chance.choice(("claim", "claim", "tell", "prune", "diverge", "raise", "kill", "put back", "bury")):
            case "claim":
                study = chance.choice(studies)
                found = study.claim()
                held += [(study, found)] if found else []
            case "bury":
                assert chance.choice(studies).bury() == 0
            case act if held:
                study, trial = held.pop(chance.randrange(len(held)))
                ENDS[act](study, trial)
                numbers += [trial.number] if act != "put back" else []
        running = [t.number for t in studies[0].trials() if t.state == TrialState.RUNNING]
        assert sorted(running) == sorted(trial.number for _, trial in held)
        assert studies[0].finished() + len(running) <= target
    for study, trial in held:
        study.put_back(trial)
    while not studies[0].is_complete():
        study = chance.choice(studies)
        trial = claimed(study)
        study.tell(trial, 1.0, 1.0)
        numbers.append(trial.number)
    assert len(numbers) == len(set(numbers))
    assert [s.claim() for s in studies] == [None, None, None]
    assert (studies[0].finished(), "RUNNING" in states(studies[0])) == (target, False)


def test_of_trials_that_two_processes_have_added_at_once_the_surplus_is_not_run(opened: Callable[..., Study]) -> None:
    one = opened(n_trials=2)
    for _ in range(4):
        one._storage.create_new_trial(one._id, template_trial=optuna.create_trial(state=TrialState.WAITING))
    for _ in range(2):
        one.tell(claimed(one), 1.0, 1.0)
    assert (one.claim(), one.is_complete()) == (None, True)
    assert states(one) == ["COMPLETE", "COMPLETE", "WAITING", "WAITING"]


def test_a_surplus_trial_takes_the_place_of_one_that_raised(opened: Callable[..., Study]) -> None:
    one = opened(n_trials=1)
    for _ in range(2):
        one._storage.create_new_trial(one._id, template_trial=optuna.create_trial(state=TrialState.WAITING))
    one.tell_failed(claimed(one), "raised", 1.0)
    one.tell(claimed(one), 1.0, 1.0)
    assert states(one) == ["FAIL", "COMPLETE"]


def test_a_trial_that_was_put_back_keeps_its_number_and_its_parameters(opened: Callable[..., Study]) -> None:
    one = opened(sampler="random")
    first = claimed(one)
    one.put_back(first)
    again = claimed(opened(sampler="random", seed=0))
    assert (again.number, again.id, dict(again.params)) == (first.number, first.id, dict(first.params))


def test_a_killed_trial_is_failed_and_tried_once_more_with_its_parameters(opened: Callable[..., Study]) -> None:
    one = opened(n_trials=1, sampler="random")
    first = claimed(one)
    assert one.tell_failed(first, "killed", 1.0, retry=True) is True
    again = claimed(one)
    assert (states(one), dict(again.params)) == (["FAIL", "RUNNING"], dict(first.params))
    assert one.trials()[1].system_attrs["failed_trial"] == 0
    assert one.tell_failed(again, "killed", 1.0, retry=True) is False
    assert dict(claimed(one).params) != dict(first.params)
    assert states(one) == ["FAIL", "FAIL", "RUNNING"]


def test_a_trial_that_raised_is_failed_and_replaced_by_another_point(opened: Callable[..., Study]) -> None:
    one = opened(n_trials=1)
    first = claimed(one)
    assert one.tell_failed(first, "raised", 2.0) is False
    assert dict(claimed(one).params) != dict(first.params)
    failed = one.trials()[0]
    assert (failed.state.name, failed.user_attrs["reason"], failed.user_attrs["seconds"]) == ("FAIL", "raised", 2.0)


@pytest.mark.parametrize(("mode", "worst"), [("min", math.inf), ("max", -math.inf)])
def test_a_diverged_trial_is_pruned_with_the_worst_value_and_counts(
    opened: Callable[..., Study], mode: str, worst: float
) -> None:
    one = opened(n_trials=2, mode=mode)
    one.tell_diverged(claimed(one), "the loss is nan", 1.0)
    reported = claimed(one)
    reported.trial.report(0.5, 10)
    reported.trial.report(0.4, 20)
    one.tell_diverged(reported, "the loss is nan", 1.0)
    told = [(t.state.name, t.value, t.user_attrs["reason"]) for t in one.trials()]
    assert told == [("PRUNED", worst, "the loss is nan")] * 2
    assert (one.finished(), one.is_complete()) == (2, True)


def test_a_pruned_trial_has_the_value_it_reported_last(opened: Callable[..., Study]) -> None:
    one = opened(n_trials=1)
    trial = claimed(one)
    trial.trial.report(0.5, 10)
    trial.trial.report(0.7, 20)
    one.tell(trial, math.nan, 1.0, pruned=True)
    assert [(t.state.name, t.value) for t in one.trials()] == [("PRUNED", 0.7)]
    assert one.is_complete()


def test_a_trial_whose_worker_was_killed_is_noticed_and_those_that_live_are_left(
    opened: Callable[..., Study],
) -> None:
    one = opened(n_trials=2, sampler="random")
    killed, living = claimed(one), claimed(one)
    one._storage.set_trial_user_attr(killed.id, "runner", died())
    assert [opened(n_trials=2, sampler="random").bury() for _ in range(2)] == [1, 0]
    assert states(one) == ["FAIL", "RUNNING", "WAITING"]
    assert one.trials()[0].user_attrs["reason"] == "its worker was killed"
    again = claimed(one)
    assert (again.number, again.params, living.number) == (2, killed.params, 1)
    assert one.trials()[2].user_attrs["runner"] == this_process()


def test_a_trial_of_another_machine_is_left_to_its_heartbeat(opened: Callable[..., Study]) -> None:
    one = opened(n_trials=1)
    one._storage.set_trial_user_attr(claimed(one).id, "runner", {**died(), "host": "another"})
    assert (one.bury(), states(one)) == (0, ["RUNNING"])


def test_a_trial_whose_heart_has_stopped_is_buried_wherever_it_ran(
    opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = opened(n_trials=1)
    trial = claimed(one)
    monkeypatch.setattr(LastingStorage, "_get_stale_trial_ids", lambda self, study_id: [trial.id])
    assert (one.bury(), states(one)) == (1, ["FAIL", "WAITING"])


@pytest.mark.parametrize("act", ENDS)
def test_what_a_worker_tells_of_a_trial_that_was_given_up_changes_nothing(
    opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    one, other = opened(n_trials=1), opened(n_trials=1)
    trial = claimed(one)
    monkeypatch.setattr(LastingStorage, "_get_stale_trial_ids", lambda self, study_id: [trial.id])
    other.bury()
    ENDS[act](one, trial)
    assert states(one) == ["FAIL", "WAITING"]
    assert one.trials()[0].user_attrs["reason"] == "its worker was killed"


def test_a_study_is_gone_on_with_by_the_same_plan(opened: Callable[..., Study]) -> None:
    opened().tell(claimed(opened()), 1.0, 1.0)
    again = opened()
    assert (again.finished(), claimed(again).number) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"space": {"optimizer.lr": FloatDistribution(1e-5, 1.0, log=True)}},
            "optimizer.lr: was log 0.0001..1, is log 1e-05..1",
        ),
        (
            {
                "space": {
                    "optimizer.lr": FloatDistribution(1e-4, 1.0, log=True),
                    "schedule": CategoricalDistribution(("cosine", "linear")),
                }
            },
            "schedule: was not searched, is cosine,linear",
        ),
        ({"space": {}}, "optimizer.lr: was log 0.0001..1, is not searched"),
        ({"fingerprint": {"config": {"seed": 1}, "sweep": {"sampler": "auto"}}}, "config.seed was 0, is 1"),
        ({"fingerprint": {"config": {}, "sweep": {"sampler": "auto"}}}, "config.seed was 0, is None"),
        (
            {"fingerprint": {"config": {"seed": 0}, "sweep": {"sampler": "tpe"}}},
            "sweep.sampler was auto, is tpe",
        ),
    ],
)
@pytest.mark.parametrize("rate", ["optimizer.lr", None])
def test_another_plan_is_refused_with_the_difference_and_nothing_changes(
    url: str, plan: Planned, changes: dict[str, Any], said: str, rate: str | None
) -> None:
    first = plan(rate=rate, about={"sweep": {"command": "first"}})
    study = Study(connect(url), first)
    study.tell(claimed(study), 1.0, 1.0)
    before = (study.study.user_attrs, states(study))
    with pytest.raises(ConfigError, match=r"sweep.study=study: made by another command") as refused:
        Study(connect(url), replace(first, about={"sweep": {"command": "second"}}, **changes))
    assert f"({said});" in str(refused.value)
    assert (study.study.user_attrs, states(study)) == before


def test_more_or_fewer_trials_and_workers_are_the_same_study(url: str, plan: Planned) -> None:
    study = Study(connect(url), plan(n_trials=1, rate=None, about={"sweep": {"workers": 1}}))
    study.tell(claimed(study), 1.0, 1.0)
    more = Study(connect(url), plan(n_trials=2, rate=None, about={"sweep": {"workers": 2}}))
    assert (study.is_complete(), more.is_complete()) == (True, False)
    assert more.study.user_attrs["sweep"] == {"workers": 2}


def test_a_config_that_a_database_writes_in_another_way_is_still_the_same(url: str, plan: Planned) -> None:
    fingerprint = {"config": {"classes": {0: "a", 1: "b"}, "betas": (0.9, 0.999), "cap": math.inf}}
    Study(connect(url), plan(fingerprint=fingerprint))
    assert Study(connect(url), plan(fingerprint=fingerprint)).finished() == 0


def test_given_values_are_taken_in_turn_and_a_killed_one_again(opened: Callable[..., Study]) -> None:
    one = opened(
        sampler="listed",
        space={"seed": optuna.distributions.IntDistribution(0, 100)},
        listed={"seed": [11, 12, 13, 14]},
        n_trials=3,
    )
    first = claimed(one)
    one.tell_failed(first, "killed", 1.0, retry=True)
    again = claimed(one)
    one.tell_failed(again, "raised", 1.0)
    rest = [claimed(one) for _ in range(3)]
    assert [t.params["seed"] for t in (first, again, *rest)] == [11, 11, 12, 13, 14]


def test_a_trial_s_command_line_has_its_values_in_the_place_of_typed_ones(plan: Planned) -> None:
    trial = Claimed(trial=None, number=0, id=1, params={"+a.b": 0.1, "schedule": "cosine"}, folder="0")  # type: ignore[arg-type]
    typed = plan(overrides=("a.b=3", "++schedule=linear", "~callbacks.x", "seed=1"))
    assert trial.overrides(typed) == ["~callbacks.x", "seed=1", "+a.b=0.1", "schedule=cosine"]


def test_finished_states_are_those_of_trials_with_a_value() -> None:
    assert set(COUNTED) == {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_trial_whose_point_cannot_be_drawn_waits_again(
    opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise RuntimeError("no point")

    one = opened(n_trials=1)
    with monkeypatch.context() as broken:
        broken.setattr("stepsize.sweep.samplers.make", fails)
        with pytest.raises(RuntimeError, match="no point"):
            one.claim()
    assert states(one) == ["WAITING"]
    assert claimed(one).number == 0


def test_of_two_that_saw_different_trials_wait_one_steps_back(
    opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = opened(n_trials=1), opened(n_trials=1)
    for _ in range(2):
        one._storage.create_new_trial(one._id, template_trial=optuna.create_trial(state=TrialState.WAITING))
    one._storage.set_trial_state_values(claimed(one).id, TrialState.FAIL)
    before_it_is_queued_again, look = one.trials(), one.trials
    again = optuna.create_trial(state=TrialState.WAITING, system_attrs={"failed_trial": 0})
    other._storage.create_new_trial(other._id, template_trial=again)
    assert claimed(other).number == 2
    looks = iter([before_it_is_queued_again])
    monkeypatch.setattr(one, "trials", lambda: next(looks, None) or look())
    assert one.claim() is None
    assert states(other) == ["FAIL", "WAITING", "RUNNING"]


def test_a_killed_trial_is_tried_again_before_a_surplus_one(opened: Callable[..., Study]) -> None:
    one = opened(n_trials=2)
    for _ in range(3):
        one._storage.create_new_trial(one._id, template_trial=optuna.create_trial(state=TrialState.WAITING))
    killed = claimed(one)
    one.tell_failed(killed, "killed", 1.0, retry=True)
    again = claimed(one)
    assert (again.number, dict(again.params)) == (3, dict(killed.params))
