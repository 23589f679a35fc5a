import math
import subprocess
import sys

import numpy as np
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from stepsize.errors import ConfigError
from stepsize.sweep.space import changes, decades, from_json, linear_rates, override, read, to_json


def parsed(text: str) -> object:
    return OverridesParser.create().parse_overrides([text])[0].value()


@pytest.fixture
def loader(tmp_path):
    (tmp_path / "optimizer").mkdir()
    for word in ("sgd", "adam", "adamw"):
        (tmp_path / "optimizer" / f"{word}.yaml").touch()
    return ConfigLoaderImpl(create_automatic_config_search_path(None, None, str(tmp_path)))


@pytest.mark.parametrize(
    ("words", "distribution"),
    [
        ("interval(0,0.5)", FloatDistribution(0, 0.5)),
        ("interval(1,5)", FloatDistribution(1, 5)),
        ("int(interval(1,5))", IntDistribution(1, 5)),
        ("tag(log,interval(1e-5,1e-1))", FloatDistribution(1e-5, 0.1, log=True)),
        ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("range(4)", IntDistribution(0, 3)),
        ("range(1,10,2)", IntDistribution(1, 9, step=2)),
        ("range(1,9,2)", IntDistribution(1, 7, step=2)),
        ("range(10,1,-3)", IntDistribution(4, 10, step=3)),
        ("range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("range(0,0.4,0.1)", FloatDistribution(0, 0.3, step=0.1)),
        ("range(1,0,-0.25)", FloatDistribution(0.25, 1, step=0.25)),
        ("tag(log,range(1,100))", IntDistribution(1, 99, log=True)),
        ("a,b", CategoricalDistribution(("a", "b"))),
        ("choice(a)", CategoricalDistribution(("a",))),
        ("a,b,a", CategoricalDistribution(("a", "b"))),
        ("sort(3,1,2)", CategoricalDistribution(("1", "2", "3"))),
        ("sort(range(10,1,-3))", IntDistribution(4, 10, step=3)),
        ("shuffle(range(4))", IntDistribution(0, 3)),
    ],
)
def test_hydras_words_become_optunas_distributions(words, distribution):
    assert read([f"x={words}"]).space == {"x": distribution}


@pytest.mark.parametrize(
    "words", ["range(1,10,2)", "range(10,1,-3)", "range(0,1,0.25)", "range(1,0,-0.25)", "range(3)"]
)
def test_a_range_holds_the_numbers_that_hydra_would_run(words):
    (distribution,) = read([f"x={words}"]).space.values()
    num = round((distribution.high - distribution.low) / distribution.step) + 1
    numbers = [distribution.low + i * distribution.step for i in range(num)]
    assert numbers == sorted(parsed(f"x={words}").range())


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("1e-5,3,-0.5", [1e-5, 3, -0.5]),
        ("null,true,False", [None, True, False]),
        ("'a b','1,2',\"it's\"", ["a b", "1,2", "it's"]),
        ("'1',1", ["1", 1]),
        ("[1,2],{k:v}", [[1, 2], {"k": "v"}]),
        ("a b,c\\,d", ["a b", "c,d"]),
        ("${x},x:${y}", ["${x}", "x:${y}"]),
    ],
)
def test_a_choice_gives_the_job_what_was_typed(typed, values):
    (distribution,) = read([f"x={typed}"]).space.values()
    assert [parsed(override("x", text)) for text in distribution.choices] == values


def test_shuffled_choices_are_the_same_search_each_time():
    texts = [str(number) for number in range(50)]
    assert read([f"x=shuffle({','.join(texts)})"]).space == {"x": CategoricalDistribution(texts)}


def test_a_glob_is_a_choice_of_the_groups_words(loader):
    assert read(["optimizer=glob(adam*)"], loader).space == {"optimizer": CategoricalDistribution(("adam", "adamw"))}


def test_a_glob_that_matches_nothing_says_what_there_is(loader):
    with pytest.raises(ConfigError, match=r"optimizer=glob\(adan\): matches nothing; did you mean adam\? There are: "):
        read(["optimizer=glob(adan)"], loader)


def test_what_is_no_sweep_is_passed_on_as_typed():
    texts = ["model.dropout=0.10", "~callbacks.x", "+a='b c'", "++c=1", "d=[1,2]", "optimizer@first=sgd", "e=", "~f=g"]
    assert read([*texts, "lr=interval(0,1)"]).fixed == tuple(texts)


@pytest.mark.parametrize("name", ["x", "+x", "++x", "+x@y.z", "group/sub@pkg"])
def test_a_parameter_is_called_by_its_key_as_typed(name):
    assert list(read([f"{name}=1,2"]).space) == [name]


@pytest.mark.parametrize(
    ("arguments", "space", "fixed"),
    [
        (["x=1,2", "x=3,4"], {"x": ("3", "4")}, ()),
        (["x=1", "x=3,4"], {"x": ("3", "4")}, ()),
        (["x=3,4", "x=1"], {}, ("x=1",)),
        (["x=3,4", "++x=1"], {}, ("++x=1",)),
        (["x=3,4", "~x"], {}, ("~x",)),
        (["+x=1", "x=3,4"], {"x": ("3", "4")}, ("+x=1",)),
        (["x=3,4", "x.y=1"], {"x": ("3", "4")}, ("x.y=1",)),
        (["+x=a", "+x=b"], {}, ("+x=a", "+x=b")),
    ],
)
def test_the_later_of_two_words_for_a_key_counts(arguments, space, fixed):
    assert read(arguments) == ({name: CategoricalDistribution(texts) for name, texts in space.items()}, fixed)


def test_parameters_keep_the_order_in_which_they_were_typed():
    assert list(read(["b=1,2", "c=interval(0,1)", "a=range(3)"]).space) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("interval(1,1)", r"^x: an interval goes from a number up to a larger one, got 1 to 1$"),
        ("interval(2,1)", r"^x: an interval .* got 2 to 1$"),
        ("interval(0,inf)", r"^x: an interval .* got 0 to inf$"),
        ("interval(nan,1)", r"^x: an interval .* got nan to 1$"),
        ("tag(log,interval(0,1))", r"^x: a log interval begins above 0, got 0$"),
        ("tag(log,int(interval(-1,5)))", r"^x: a log interval begins above 0, got -1$"),
        ("tag(lgo,interval(1,2))", r"^x: there is no tag lgo; did you mean log\? There are: log$"),
        ("tag(log,choice(1,2))", r"^x: choices take no tag, got log$"),
        ("range(3,1)", r"^x: the range from 3 to 1 by 1 is empty$"),
        ("range(0,3,0)", r"^x: a range takes finite numbers and a step other than 0$"),
        ("range(0,inf,0.5)", r"^x: a range takes finite numbers and a step other than 0$"),
        ("tag(log,range(1,9,2))", r"^x: a log range takes integers above 0 without a step"),
        ("tag(log,range(0,9))", r"^x: a log range takes integers above 0 without a step"),
        ("tag(log,range(0.5,9))", r"^x: a log range takes integers above 0 without a step"),
    ],
)
def test_a_range_that_cannot_be_searched_is_one_clear_line(words, message):
    with pytest.raises(ConfigError, match=message):
        read([f"x={words}"])


def test_what_is_not_in_the_grammar_is_hydras_error():
    with pytest.raises(OverrideParseException):
        read(["x=interval(1,"])


@pytest.mark.parametrize("value", [1e-5, 1e-05 / 3, 0.1 + 0.2, 1e16, 5e-324, 3, -7])
def test_a_number_is_read_back_exactly(value):
    back = parsed(override("x", value))
    assert (back, type(back)) == (value, type(value))


def test_numpys_numbers_are_written_as_pythons():
    assert [override("x", np.float64(1e-5)), override("x", np.int64(3))] == ["x=1e-05", "x=3"]


@pytest.mark.parametrize(
    ("lr", "low", "high", "expected"),
    [
        (1e-3, None, None, (1e-5, 0.1)),
        (3e-4, None, None, (3e-6, 0.03)),
        (0.07, None, None, (7e-4, 7.0)),
        (1e-3, 1e-4, None, (1e-4, 0.1)),
        (1e-3, None, 1.0, (1e-5, 1.0)),
        (0.0, 1e-4, 1.0, (1e-4, 1.0)),
    ],
)
def test_decades_around_the_optimizers_own_rate(lr, low, high, expected):
    assert decades(lr, low, high) == FloatDistribution(*expected, log=True)


def test_fewer_decades_are_a_narrower_range():
    assert decades(1e-3, None, None, decades=1) == FloatDistribution(1e-4, 1e-2, log=True)


@pytest.mark.parametrize(
    ("lr", "low", "high", "message"),
    [
        (1e-3, 0.0, None, r"^sweep.low: must be a finite number above 0, got 0$"),
        (1e-3, -1.0, None, r"^sweep.low: .* got -1$"),
        (1e-3, math.nan, None, r"^sweep.low: .* got nan$"),
        (1e-3, None, math.nan, r"^sweep.high: .* got nan$"),
        (1e-3, None, math.inf, r"^sweep.high: .* got inf$"),
        (1e-3, 1.0, None, r"^sweep.low: must be below sweep.high=0.1, got 1$"),
        (1e-3, 0.1, 0.1, r"^sweep.low: must be below sweep.high=0.1, got 0.1$"),
        (1e-3, None, 1e-6, r"^sweep.high: must be above sweep.low=1e-05, got 1e-06$"),
        (0.0, None, 1.0, r"^sweep.low: must be given, as it cannot be derived from a learning rate of 0$"),
        (math.nan, 1.0, None, r"^sweep.high: must be given"),
    ],
)
def test_an_end_that_cannot_be_names_its_option(lr, low, high, message):
    with pytest.raises(ConfigError, match=message):
        decades(lr, low, high)


def test_a_linear_learning_rate_is_shown_its_log_form():
    space = read(["optimizer.lr=interval(1e-5,0.1)"]).space
    assert linear_rates(space) == [
        "optimizer.lr is searched on a linear scale, where most trials fall near the upper end; "
        "log form: optimizer.lr='tag(log,interval(1e-05,0.1))'"
    ]


@pytest.mark.parametrize("name", ["lr", "+optimizer.lr", "lr@first", "optimizer.learning_rate", "schedule.min_lr"])
def test_a_learning_rate_is_known_by_the_last_key(name):
    assert len(linear_rates({name: FloatDistribution(0.1, 1)})) == 1


def test_the_log_form_of_an_interval_from_0_can_be_read():
    (warning,) = linear_rates(read(["lr=interval(0,0.3)"]).space)
    assert read([warning.split("log form: ")[1].replace("'", "")]).space == {
        "lr": FloatDistribution(3e-5, 0.3, log=True)
    }


def test_nothing_else_is_warned_of():
    space = read(
        ["lr=tag(log,interval(1e-5,1))", "a_lr=0.1,1", "b_lr=range(0,1,0.1)", "lr.dropout=interval(0,1)"]
    ).space
    assert linear_rates(space) == []


def test_a_stored_space_is_read_back():
    space = read(["a=interval(0,1)", "+b=tag(log,interval(1e-5,1))", "c=range(1,9,2)", "d='x y',1,null"]).space
    assert from_json(to_json(space)) == space


def test_what_differs_is_a_line_for_each_parameter():
    before = read(["optimizer.lr=tag(log,interval(1e-5,0.1))", "a=x,y", "b=interval(0,1)", "same=1,2"]).space
    now = read(["optimizer.lr=tag(log,interval(1e-6,0.1))", "a=y", "a=y,z", "c=range(1,9,2)", "same=1,2"]).space
    assert changes(before, now) == [
        "a: was x,y, is y,z",
        "b: was 0..1, is not searched",
        "c: was not searched, is integers 1..7 by 2",
        "optimizer.lr: was log 1e-05..0.1, is log 1e-06..0.1",
    ]


def test_neither_torch_nor_scipy_is_imported_before_a_trial_needs_it():
    code = "import sys, stepsize.sweep.space, stepsize.sweep.samplers; print({'torch', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
