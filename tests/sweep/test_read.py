import math
from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pytest

from stepsize.errors import ConfigError
from stepsize.sweep.driver import Driver
from stepsize.sweep.job import Ended
from stepsize.sweep.read import names, read, words
from stepsize.sweep.results import State
from stepsize.sweep.runners import Failed

Made = Callable[..., Any]
Driven = Callable[..., Driver]

optuna.logging.set_verbosity(optuna.logging.ERROR)


def by_rate(params: Mapping[str, Any], number: int) -> Ended:
    return Ended("complete", float(params.get("optimizer.lr", params.get("seed", 0))))


def test_what_is_read_is_what_was_told(driven: Driven, in_process: Made, arm: Made) -> None:
    ends = [
        Ended("complete", 0.5),
        Ended("pruned", math.nan),
        Ended("diverged", math.inf, "the loss is nan"),
        Failed("ValueError: no"),
        Failed("killed", killed=True),
        Ended("complete", 0.4),
        Ended("complete", 0.4),
    ]

    def reporting(params: Mapping[str, Any], number: int) -> Ended | Failed:
        trial = runner.running[0].claimed.trial
        for step in (20, 10):
            trial.report(step + number, step)
        return ends[number]

    runner = in_process(reporting)
    driver = driven(runner, arm(), n_trials=5, sampler="random", metric="val/loss", pruner="median")
    driver.run(raises=False)
    found = read(driver.sweep.storage, "study")
    (one,) = found.arms
    assert [(t.number, t.state, t.value) for t in one.trials] == [
        (0, State.complete, 0.5),
        (1, State.pruned, 21.0),
        (2, State.diverged, math.inf),
        (3, State.failed, None),
        (4, State.failed, None),
        (5, State.complete, 0.4),
        (6, State.complete, 0.4),
    ]
    assert [t.reason for t in one.trials] == ["", "", "the loss is nan", "ValueError: no", "killed", "", ""]
    assert [t.retry_of for t in one.trials] == [None] * 5 + [4, None]
    assert one.trials[5].params == one.trials[4].params
    assert [list(t.curve.items()) for t in one.trials] == [[(10, 10.0 + n), (20, 20.0 + n)] for n in range(7)]
    assert [t.folder for t in one.trials] == [str(n) for n in range(7)]
    assert all(t.seconds is not None and t.seconds >= 0 for t in one.trials)
    assert (one.rate, one.low, one.high, one.widened, one.exchangeable) == ("optimizer.lr", 1e-4, 1.0, 0, True)
    best = found.best(one)
    assert best is not None
    assert best.number == 5  # the earlier of two equals
    assert one.command == f"python train.py optimizer=sgd optimizer.lr={best.params['optimizer.lr']!r}"
    assert (found.name, found.metric, found.mode, found.n_trials) == ("study", "val/loss", "min", 5)
    assert (found.sampler, found.pruner, found.command) == ("random", "median", "python train.py -m sweep=lr")


def test_a_sweep_that_has_only_begun_is_read_too(swept: Made, arm: Made) -> None:
    sweep = swept(arm(), n_trials=3)
    sweep.claim()
    (one,) = read(sweep.storage, "study").arms
    assert [t.state for t in one.trials] == [State.running, State.waiting, State.waiting]
    assert (one.command, one.at_init, one.confirmed) == ("", None, {})


def test_a_widened_range_is_read_with_its_new_ends_and_its_trials(driven: Driven, in_process: Made, arm: Made) -> None:
    driver = driven(in_process(by_rate), arm(derived="optimizer.lr"), n_trials=3)
    driver.run(raises=False)
    found = read(driver.sweep.storage, "study")
    (one,) = found.arms
    assert (one.low, one.high, one.widened) == (1e-6, 1.0, 2)
    assert found.n_trials + one.added == len(one.trials) == driver.sweep.searches[0].target


def test_arms_are_read_in_their_order_with_the_values_of_their_fresh_seeds(
    driven: Driven, in_process: Made, arm: Made
) -> None:
    arms = [arm(name=word, words=(f"optimizer={word}",), config={"seed": 7}) for word in ("b", "a")]
    options: dict[str, Any] = {"confirm_seeds": 2, "purpose": "compare"}
    driven(in_process(by_rate), *arms, n_trials=1, **options).run(raises=False)
    driver = driven(in_process(by_rate), *arms, n_trials=2, **options)
    driver.run(raises=False)
    found = read(driver.sweep.storage, "study")
    assert [(one.name, one.words) for one in found.arms] == [("b", ("optimizer=b",)), ("a", ("optimizer=a",))]
    assert [one.confirmed for one in found.arms] == [{8: 8.0, 9: 9.0}] * 2
    assert [one.trials[1].folder for one in found.arms] == ["b/1", "a/1"]
    assert names(driver.sweep.storage) == ["study"]


def test_the_value_before_training_is_read(swept: Made, arm: Made) -> None:
    sweep = swept(arm())
    sweep.searches[0].study.set_user_attr("at_init", 2.3)
    assert read(sweep.storage, "study").arms[0].at_init == 2.3


def test_a_sweep_that_there_is_not_is_refused_with_those_that_there_are(swept: Made, arm: Made) -> None:
    with pytest.raises(ConfigError, match=r"studi: there is no such sweep; did you mean study\?"):
        read(swept(arm()).storage, "studi")


def test_the_words_of_the_best_trial_replace_what_was_typed(driven: Driven, in_process: Made, arm: Made) -> None:
    searched = arm(overrides=("optimizer=sgd", "optimizer.lr=0.3", "~callbacks.x"))
    driver = driven(in_process(by_rate), searched, n_trials=2)
    driver.run(raises=False)
    study = driver.sweep.searches[0].study
    assert words(study) == ["optimizer=sgd", "~callbacks.x", "optimizer.lr=0.0001"]
