import math
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from stepsize.errors import SweepStoppedError
from stepsize.sweep import driver as driver_module
from stepsize.sweep.driver import Driver
from stepsize.sweep.job import Ended
from stepsize.sweep.runners import Failed

Made = Callable[..., Any]
Driven = Callable[..., Driver]

optuna.logging.set_verbosity(optuna.logging.ERROR)


def complete(params: Mapping[str, Any], number: int) -> Ended:
    return Ended("complete", abs(math.log10(params["optimizer.lr"]) + 2))


def raises(params: Mapping[str, Any], number: int) -> Failed:
    return Failed("ValueError: no")


def states(driver: Driver) -> list[str]:
    return [t.state.name for study in driver.sweep.studies() for t in study.trials()]


def test_a_sweep_runs_until_all_trials_have_finished(driven: Driven, in_process: Made, arm: Made) -> None:
    runner = in_process(complete, workers=3)
    driver = driven(runner, arm(), n_trials=5)
    driver.run(raises=False)
    assert (states(driver), runner.most, driver.received) == (["COMPLETE"] * 5, 3, None)
    assert driver.sweep.progress() == (5, 5)


def test_every_end_of_a_trial_is_told(driven: Driven, in_process: Made, arm: Made) -> None:
    ends = [
        Ended("complete", 0.5),
        Ended("pruned", math.nan),
        Ended("diverged", math.inf, "the loss is nan"),
        Failed("ValueError: no", tail="Traceback"),
        Failed("killed", killed=True),
        Ended("complete", 0.4),
        Ended("complete", 0.3),
    ]
    driver = driven(in_process(lambda params, number: ends[number]), arm(), n_trials=5)
    driver.run(raises=False)
    assert states(driver) == ["COMPLETE", "PRUNED", "PRUNED", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert [again for _, _, again in driver.heard] == [False] * 4 + [True] + [False] * 2  # type: ignore[attr-defined]
    trials = driver.sweep.searches[0].trials()
    assert (trials[2].value, trials[2].user_attrs["diverged"]) == (math.inf, True)
    assert [t.user_attrs.get("reason") for t in trials[2:5]] == ["the loss is nan", "ValueError: no", "killed"]
    assert all(t.user_attrs["seconds"] >= 0 for t in trials)


def test_what_a_trial_has_not_written_itself_is_kept(driven: Driven, in_process: Made, arm: Made) -> None:
    ends = [Ended("complete", 0.5, reports={1: 0.7, 2: 0.5}), Ended("diverged", math.inf, "nan", reports={1: 0.9})]
    driver = driven(in_process(lambda params, number: ends[number]), arm(), n_trials=2)
    driver.run(raises=False)
    kept = [t.intermediate_values for t in driver.sweep.searches[0].trials()]
    assert kept == [{1: 0.7, 2: 0.5}, {1: 0.9, 2: math.inf}]


@pytest.mark.parametrize(("allowed", "failed"), [(0, 1), (2, 3)])
def test_a_sweep_ends_once_more_trials_have_failed_than_are_allowed(
    driven: Driven, in_process: Made, arm: Made, allowed: int, failed: int
) -> None:
    driver = driven(in_process(raises), arm(), max_failures=allowed)
    with pytest.raises(SweepStoppedError, match=f"failed trials: {failed}, more than sweep.max_failures={allowed};"):
        driver.run(raises=False)
    assert states(driver)[:failed] == ["FAIL"] * failed
    assert {*states(driver)[failed:]} <= {"WAITING"}


def test_as_many_failures_as_are_allowed_end_nothing(driven: Driven, in_process: Made, arm: Made) -> None:
    ends = [raises, raises, complete, complete]
    driver = driven(in_process(lambda params, n: ends[n](params, n)), arm(), n_trials=2, max_failures=2)
    driver.run(raises=False)
    assert states(driver) == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]


def test_what_runs_when_too_much_has_failed_is_let_end(driven: Driven, in_process: Made, arm: Made) -> None:
    def ends(params: Mapping[str, Any], number: int) -> Ended | Failed:
        return complete(params, number) if number else raises(params, number)

    driver = driven(in_process(ends, workers=2), arm(), n_trials=5, max_failures=0)
    with pytest.raises(SweepStoppedError):
        driver.run(raises=False)
    assert states(driver)[:2] == ["FAIL", "COMPLETE"]
    assert driver.sweep.searches[0].finished() == 1


def test_arms_are_searched_in_their_order_and_confirmed_as_soon_as_each_is_done(
    driven: Driven, in_process: Made, arm: Made
) -> None:
    arms = [arm(name=word, words=(f"optimizer={word}",), overrides=(f"optimizer={word}",)) for word in ("b", "a")]

    def ends(params: Mapping[str, Any], number: int) -> Ended:
        return complete(params, number) if "optimizer.lr" in params else Ended("complete", float(params["seed"]))

    driver = driven(in_process(ends), *arms, n_trials=2, confirm_seeds=2, purpose="compare")
    driver.run(raises=False)
    order = [(started.study.plan.name, dict(started.claimed.params)) for started, _, _ in driver.heard]  # type: ignore[attr-defined]
    assert [name.split("/")[1] for name, _ in order] == ["b"] * 4 + ["a"] * 4
    assert [params.get("seed") for _, params in order] == [None, None, 1, 2] * 2
    assert all("confirm" in name for name, params in order if "seed" in params)
    words = [started.claimed.overrides(started.study.plan) for started, _, _ in driver.heard][2]  # type: ignore[attr-defined]
    assert words == ["optimizer=b", "optimizer.lr=0.01", "seed=1"]


def test_an_extended_comparison_confirms_what_is_best_then(driven: Driven, in_process: Made, arm: Made) -> None:
    arms = [arm(name=word, words=(f"optimizer={word}",)) for word in ("a", "b")]

    def ends(params: Mapping[str, Any], number: int) -> Ended:
        return Ended("complete", float(params.get("optimizer.lr", params.get("seed"))))

    def run(n_trials: int) -> list[Any]:
        driver = driven(in_process(ends), *arms, n_trials=n_trials, confirm_seeds=1, purpose="compare")
        driver.run(raises=False)
        assert driver.sweep.is_complete()
        assert driver.sweep.progress() == (2 * n_trials + 2, 2 * n_trials + 2)
        return [s.claimed.overrides(s.study.plan) for s, _, _ in driver.heard if "seed" in s.claimed.params]  # type: ignore[attr-defined]

    assert run(1) == [["optimizer=sgd", "optimizer.lr=0.01", "seed=1"]] * 2
    assert run(2) == [["optimizer=sgd", "optimizer.lr=0.0001", "seed=1"]] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("inside", [True, False])
def test_a_signal_ends_the_sweep_and_what_ran_waits_for_the_next(
    driven: Driven, in_process: Made, arm: Made, number: int, inside: bool
) -> None:
    def ends(params: Mapping[str, Any], n: int) -> Ended:
        if n == 1:
            signal.raise_signal(number)
        return complete(params, n)

    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    driver = driven(in_process(ends, workers=2), arm(), n_trials=4)
    driver.run(raises=inside)
    assert driver.received == number
    assert {s: signal.getsignal(s) for s in before} == before
    finished = 1 if inside else 2  # where trials run in this process, the signal interrupts the one it meets
    assert (driver.sweep.searches[0].finished(), "RUNNING" in states(driver), "FAIL" in states(driver)) == (
        finished,
        False,
        False,
    )
    again = driven(in_process(complete), arm(), n_trials=4)
    again.run(raises=inside)
    assert states(again) == ["COMPLETE"] * 4


def test_a_trial_that_dies_of_the_signal_itself_is_put_back_and_not_failed(
    driven: Driven, in_process: Made, arm: Made
) -> None:
    def ends(params: Mapping[str, Any], n: int) -> Failed:
        signal.raise_signal(signal.SIGTERM)
        return Failed("killed", killed=True)

    driver = driven(in_process(ends), arm(), n_trials=1)
    driver.run(raises=False)
    assert (states(driver), [again for _, _, again in driver.heard]) == (["WAITING"], [True])  # type: ignore[attr-defined]


def test_an_error_of_the_runner_leaves_nothing_running(driven: Driven, in_process: Made, arm: Made) -> None:
    def ends(params: Mapping[str, Any], n: int) -> Ended:
        raise OSError("no more processes")

    driver = driven(in_process(ends, workers=2), arm(), n_trials=2)
    with pytest.raises(OSError, match="no more processes"):
        driver.run(raises=False)
    assert states(driver) == ["WAITING", "WAITING"]


def test_a_trial_that_could_not_be_started_waits_for_the_next(
    driven: Driven, in_process: Made, arm: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = in_process(complete)

    def start(study: Any, claimed: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(runner, "start", start)
    driver = driven(runner, arm(), n_trials=1)
    with pytest.raises(OSError, match="no more processes"):
        driver.run(raises=False)
    assert states(driver) == ["WAITING"]


def test_a_running_trial_s_heart_beats(
    driven: Driven, in_process: Made, arm: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "HEARTBEAT_SECONDS", 0.02)
    beats: list[int] = []
    enough = threading.Event()

    def beat(study: Any, trial_id: int) -> None:
        beats.append(trial_id)
        if len(beats) == 4:
            enough.set()

    def ends(params: Mapping[str, Any], n: int) -> Ended:
        beats.clear()
        assert enough.wait(30)
        return complete(params, n)

    driver = driven(in_process(ends, workers=2), arm(), n_trials=2)
    monkeypatch.setattr(type(driver.sweep.searches[0]), "beat", beat)
    driver.run(raises=False)
    assert set(beats) <= {t._trial_id for t in driver.sweep.searches[0].trials()}
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


LOSS = {
    "optimizer.lr": FloatDistribution(1e-4, 1.0, log=True),
    "model.dropout": FloatDistribution(0.0, 0.5),
}
MIXED = {**LOSS, "schedule": CategoricalDistribution(("cosine", "linear"))}


@pytest.mark.parametrize(
    ("sampler", "space"),
    [
        ("grid", {"optimizer.lr": LOSS["optimizer.lr"]}),
        ("tpe", MIXED),
        ("random", MIXED),
        ("qmc", MIXED),
        pytest.param("gp", LOSS, marks=pytest.mark.slow),
        ("cmaes", LOSS),
    ],
)
def test_nine_trials_and_seven_more_are_sixteen_in_one_go_bit_for_bit(
    driven: Driven, in_process: Made, arm: Made, sampler: str, space: Any
) -> None:
    def ends(params: Mapping[str, Any], number: int) -> Ended:
        away = math.log10(params["optimizer.lr"]) + 2
        if away > 1.4:
            return Ended("diverged", math.inf, "nan")
        return Ended("complete", away**2 + params.get("model.dropout", 0.0))

    def run(name: str, n_trials: int) -> list[tuple[Any, Any]]:
        searched = arm(name=name, space=space)
        driver = driven(in_process(ends), searched, sampler=sampler, n_trials=n_trials)
        driver.run(raises=False)
        return [(dict(t.params), t.value) for t in driver.sweep.searches[0].trials()]

    first = run("parts", 9)
    both = run("parts", 16)
    assert (len(first), both[:9]) == (9, first)
    assert both == run("whole", 16)
    assert len({str(params) for params, _ in both}) == 16


def test_a_trial_that_is_interrupted_though_nobody_asked_is_tried_once_more_and_counts_as_failed(
    driven: Driven, in_process: Made, arm: Made
) -> None:
    driver = driven(
        in_process(lambda params, n: Failed("interrupted", interrupted=True)), arm(), n_trials=1, max_failures=3
    )
    with pytest.raises(SweepStoppedError, match="failed trials: 4, more than"):
        driver.run(raises=False)
    assert "RUNNING" not in states(driver)
