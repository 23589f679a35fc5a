import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from subprocess import CompletedProcess
from typing import Any

import pytest
from omegaconf import OmegaConf

from stepsize.config import CONF
from stepsize.errors import ConfigError
from stepsize.sweep.options import Options, Purpose, read

NAMES = [option.name for option in fields(Options)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_trials": 0}, "sweep.n_trials must be a whole number of at least 1, got 0"),
        ({"n_trials": 2.5}, "sweep.n_trials must be a whole number of at least 1, got 2.5"),
        ({"n_trials": True}, "sweep.n_trials must be a whole number of at least 1, got True"),
        ({"n_trials": None}, "sweep.n_trials must be a whole number of at least 1, got None"),
        ({"workers": 0}, "sweep.workers must be a whole number of at least 1, got 0"),
        ({"max_failures": -1}, "sweep.max_failures must be a whole number of at least 0, got -1"),
        ({"seed": -1}, "sweep.seed must be a whole number of at least 0, got -1"),
        ({"confirm_seeds": -1}, "sweep.confirm_seeds must be a whole number of at least 0, got -1"),
        ({"decades": 0}, "sweep.decades must be a number above 0, and 20 at most, got 0"),
        ({"decades": math.nan}, "sweep.decades must be a number above 0, and 20 at most, got nan"),
        ({"decades": math.inf}, "sweep.decades must be a number above 0, and 20 at most, got inf"),
        ({"decades": "two"}, "sweep.decades must be a number above 0, and 20 at most, got two"),
        ({"low": "small"}, "sweep.low must be a number, got small"),
        ({"high": [1]}, "sweep.high must be a number, got [1]"),
        ({"pruner": "medium"}, "sweep.pruner=medium: there is no such pruner; did you mean median?"),
        ({"mode": "less"}, "sweep.mode must be min or max, got less"),
        ({"purpose": "compete"}, "sweep.purpose=compete: there is no such purpose; did you mean compare?"),
        ({"purpose": "compare", "pruner": "median"}, "sweep.pruner=median: a comparison stops nothing but"),
        ({"n_trial": 3}, "sweep.n_trial: there is no such key; did you mean n_trials?"),
    ],
)
def test_an_option_out_of_its_range_is_one_line(options: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(options)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_the_least_that_is_allowed_is_read() -> None:
    least = {"n_trials": 1, "workers": 1, "max_failures": 0, "seed": 0, "confirm_seeds": 0, "decades": 0.1}
    made = read({**least, "purpose": "compare", "low": 1, "high": 2.0})
    assert {name: getattr(made, name) for name in least} == least
    assert (made.purpose, made.low, made.high) == (Purpose.compare, 1, 2.0)


def test_nothing_said_is_every_default() -> None:
    assert read({}) == Options()


def test_the_recipe_hands_on_exactly_the_options() -> None:
    recipe = OmegaConf.to_container(OmegaConf.load(CONF / "hydra" / "sweeper" / "recipe.yaml"))
    assert isinstance(recipe, dict)
    del recipe["defaults"]
    assert recipe == {name: f"${{sweep.{name}}}" for name in NAMES}


def test_the_plugin_s_options_are_those_of_the_recipe() -> None:
    from hydra.core.config_store import ConfigStore

    from hydra_plugins.stepsize import sweeper  # noqa: F401 - stores them

    node = ConfigStore.instance().load("hydra/sweeper/stepsize.yaml").node
    assert {str(key) for key in node} == {*NAMES, "_target_"}


def test_help_shows_the_words_of_a_sweep(command: Callable[..., CompletedProcess[str]]) -> None:
    printed = command("--help").stdout
    assert "sweep=       compare lr" in printed
    assert "python train.py -m sweep=lr" in printed
    assert "python train.py -m sweep=compare" in printed
