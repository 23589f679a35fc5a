from collections.abc import Callable
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from stepsize.build import learning_rate
from stepsize.config import CONF
from stepsize.errors import ConfigError
from stepsize.sweep.arms import Arm, applied

Typed = Callable[..., Any]
LOG = "optimizer.lr=tag(log,interval(1e-5,1e-1))"
RATELESS = ("custom",)  # names no optimizer


def rate(arm: Arm) -> tuple[float, float]:
    searched = arm.space["optimizer.lr"]
    assert isinstance(searched, FloatDistribution)
    assert searched.log
    return searched.low, searched.high


def default(typed: Typed, word: str) -> float:
    command = typed("sweep=lr")
    with applied(command.compose([f"optimizer={word}"])) as task:
        return learning_rate(task)


def two_decades_around_its_default(typed: Typed, word: str) -> None:
    (arm,) = typed("sweep=lr", f"optimizer={word}").arms()
    lr = default(typed, word)
    assert rate(arm) == pytest.approx((lr / 100, lr * 100), rel=1e-11)
    assert (arm.name, arm.derived, list(arm.space)) == ("", "optimizer.lr", ["optimizer.lr"])


@pytest.mark.parametrize("word", ["lion", "sgd"])
def test_the_range_is_two_decades_to_each_side_of_the_optimizer_s_default(typed: Typed, word: str) -> None:
    two_decades_around_its_default(typed, word)


@pytest.mark.slow
@pytest.mark.parametrize("word", sorted({path.stem for path in (CONF / "optimizer").glob("*.yaml")} - {*RATELESS}))
def test_the_range_of_every_word_is_around_its_own_default(typed: Typed, word: str) -> None:
    two_decades_around_its_default(typed, word)


def test_ends_and_width_of_the_range_may_be_said(typed: Typed) -> None:
    said = ("sweep=lr", "optimizer=adamw")
    assert rate(typed(*said, "sweep.low=1e-4", "sweep.high=1e-2").arms()[0]) == (1e-4, 1e-2)
    assert rate(typed(*said, "sweep.decades=1").arms()[0]) == (1e-4, 1e-2)
    with pytest.raises(ConfigError, match=r"sweep.low: must be below sweep.high=0.01, got 1"):
        typed(*said, "sweep.low=1", "sweep.high=1e-2").arms()


def test_a_fixed_learning_rate_moves_the_middle_of_the_range(typed: Typed) -> None:
    (arm,) = typed("sweep=lr", "optimizer=adamw", "optimizer.lr=0.2").arms()
    assert (rate(arm), arm.overrides) == ((2e-3, 20.0), ("optimizer=adamw",))


def test_what_an_experiment_sets_moves_the_middle_of_the_range_and_is_a_departure(typed: Typed) -> None:
    (arm,) = typed("sweep=lr", "experiment=digits_mlp", "seed=3", "~callbacks.monitor").arms()
    assert rate(arm) == (1e-4, 1.0)
    assert (arm.departures["optimizer.weight_decay"], arm.departures["seed"]) == (0.05, 3)
    assert arm.departures["callbacks.monitor"] is None
    assert "optimizer.lr" not in arm.departures
    assert "run_dir" not in arm.departures
    assert "experiment" not in arm.choices


def test_a_range_that_was_typed_is_searched_as_typed(typed: Typed) -> None:
    words = (LOG, "model.dropout=interval(0.0,0.5)", "schedule=cosine,linear", "data.batch_size=range(32,65,32)")
    (arm,) = typed("sweep=lr", "optimizer=adamw", *words).arms()
    assert arm.space == {
        "optimizer.lr": FloatDistribution(1e-5, 0.1, log=True),
        "model.dropout": FloatDistribution(0.0, 0.5),
        "schedule": CategoricalDistribution(("cosine", "linear")),
        "data.batch_size": IntDistribution(32, 64, step=32),
    }
    assert (arm.derived, arm.overrides) == (None, ("optimizer=adamw",))


def test_the_words_of_the_sweep_itself_are_none_of_a_trial_s(typed: Typed) -> None:
    words = ("sweep=lr", "sweep.workers=2", "+sweep.space.seed='0,1'", "model.widths=[8]")
    (arm,) = typed(*words).arms()
    assert arm.overrides == ("model.widths=[8]",)
    assert arm.space["seed"] == CategoricalDistribution(("0", "1"))


def test_what_a_trial_does_not_depend_on_is_no_part_of_what_must_stay_the_same(typed: Typed) -> None:
    (arm,) = typed("sweep=lr", "optimizer=adamw").arms()
    gone = {"name", "run_dir", "resume", "logger", "sweep", "hydra"}
    assert gone & set(arm.config) == set()
    assert ("lr" in arm.config["optimizer"], "root" in arm.config["data"]) == (False, False)
    assert (arm.config["seed"], arm.config["optimizer"]["betas"]) == (0, [0.9, 0.999])
    again, other = (typed("sweep=lr", "optimizer=adamw", w).arms()[0] for w in ("run_dir=there", "seed=1"))
    assert (again.config == arm.config, other.config == arm.config) == (True, False)


def test_each_word_that_is_compared_has_an_arm_with_its_own_range(typed: Typed) -> None:
    lion, sgd = typed("sweep=compare", "optimizer=lion,sgd", "seed=5").arms()
    assert [(arm.name, arm.words, arm.choices["optimizer"]) for arm in (lion, sgd)] == [
        ("lion", ("optimizer=lion",), "lion"),
        ("sgd", ("optimizer=sgd",), "sgd"),
    ]
    assert lion.overrides == ("seed=5", "optimizer=lion")
    assert rate(sgd)[0] > rate(lion)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("schedule=cosine,linear",), ["cosine", "linear"]),
        (("model=mlp,convnet", "data=digits"), ["mlp", "convnet"]),
        (("optimizer=sgd,lion", "schedule=cosine,linear"), ["sgd,cosine", "sgd,linear", "lion,cosine", "lion,linear"]),
    ],
)
def test_any_groups_are_compared_and_several_with_each_other(typed: Typed, words: Any, names: list[str]) -> None:
    made = typed("sweep=compare", *words).arms()
    assert [arm.name for arm in made] == names
    assert {tuple(arm.space) for arm in made} == {("optimizer.lr",)}


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("sweep=compare", "optimizer=sgd"), ConfigError, "nothing to compare; name several of a group"),
        (("sweep=compare", "model.dropout=0.1,0.2"), ConfigError, "nothing to compare; name several of a group"),
        (("sweep=lr", "optimizer=sgd,lion"), ConfigError, "take sweep=compare for several, or give optimizer.lr='tag"),
        (("sweep=lr", "sweep.rate=null"), ConfigError, "nothing to search; give a range, such as optimizer.lr='tag"),
        (("sweep=lr", "model.dropuot=interval(0.0,0.5)"), ConfigCompositionException, "model.dropuot"),
        (("sweep=lr", "optimizer=adamw", "model.dropout=interval(0.5,0.0)"), ConfigError, "model.dropout: an interval"),
        (
            ("sweep=lr", "sweep.low=0.01", "optimizer.lr=tag(log,interval(0.001,0.1))"),
            ConfigError,
            "sweep.low, sweep.high: optimizer.lr has a range of its own",
        ),
        (("sweep=lr", "model=mlp,gpt"), ConfigError, "model: GPT takes tokens"),
        (("sweep=lr", "objective.metric=val/nothing"), ConfigError, "never logged"),
        (("sweep=lr", "schedule=cosine,linaer"), Exception, "linaer"),
    ],
)
def test_what_cannot_be_searched_is_refused(typed: Typed, words: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as refused:
        typed(*words).arms()
    assert said in f"{refused.value} {refused.value.__cause__}"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("sweep=lr", "optimizer=lion"), "lr-digits-mlp-lion-warmup_cosine"),
        (("sweep=lr", "experiment=digits_mlp"), "lr-digits_mlp-digits-mlp-adamw-warmup_cosine"),
        (
            ("sweep=compare", "optimizer=sgd,lion", "schedule=cosine"),
            "compare-digits-mlp-sgd+lion-cosine",
        ),
        (("sweep=lr", "sweep.named_by=[optimizer]", "optimizer=a/b,c@d"), "a_b+c_d"),
        (("sweep=lr", "sweep.named_by=[]"), "sweep"),
        (("sweep=lr", "sweep.study=mine/first.try+1"), "mine/first.try+1"),
    ],
)
def test_a_study_is_named_by_what_was_chosen(typed: Typed, words: Any, name: str) -> None:
    assert typed(*words).name() == name


@pytest.mark.parametrize("name", ["../up", "a/../b", "/root", "a b", "a/", ".", "a/./b", ".hidden", "a$b"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(typed: Typed, name: str) -> None:
    with pytest.raises(ConfigError, match="a name of letters, digits and any of"):
        typed("sweep=lr", f"sweep.study='{name}'").name()


def test_a_glob_stands_for_the_words_of_a_group(typed: Typed) -> None:
    found = typed("sweep=compare", "optimizer=glob(schedule_free*)", "schedule=constant").arms()
    assert [arm.name for arm in found] == ["schedule_free_adamw", "schedule_free_sgd"]


def test_experiments_are_compared_and_not_searched(typed: Typed) -> None:
    with pytest.raises(ConfigError, match="compare several by sweep=compare"):
        typed("sweep=lr", "experiment=digits_mlp,mnist1d_convnet").arms()


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "recipe"])
def test_a_sweep_composes_with_other_launchers(typed: Typed, launcher: str) -> None:
    (arm,) = typed("sweep=lr", f"hydra/launcher={launcher}").arms()
    assert list(arm.space) == ["optimizer.lr"]
