import math
import sys
from fractions import Fraction

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState
from scipy.stats.qmc import Sobol

from stepsize.errors import ConfigError
from stepsize.sweep.samplers import (
    GRID_UP_TO,
    beyond,
    combinations,
    make,
    num_combinations,
    position,
    resolve,
    spacing,
)
from stepsize.sweep.space import Space

RATE = FloatDistribution(1e-5, 0.1, log=True)
ALL = {
    "lr": RATE,
    "dropout": FloatDistribution(0, 0.5),
    "depth": IntDistribution(1, 8),
    "schedule": CategoricalDistribution(("cosine", "linear")),
    "only": CategoricalDistribution(("one",)),
}
SPACES = {"grid": {"lr": RATE}, "tpe": ALL, "random": ALL, "qmc": ALL, "gp": ALL, "cmaes": ALL}

optuna.logging.set_verbosity(optuna.logging.ERROR)


def opened(name, space, storage=None, seed=1, direction="minimize"):
    return optuna.create_study(
        study_name="study",
        storage=storage or InMemoryStorage(),
        load_if_exists=True,
        direction=direction,
        sampler=make(name, seed, space),
    )


def begun(study):
    study.enqueue_trial({})
    return Trial(study, study._pop_waiting_trial_id())


def drawn(trial, space):
    return {name: trial._suggest(name, distribution) for name, distribution in space.items()}


def told(study, trial, value, step=1):
    """As the driver does: what is no longer finite is pruned, and so is what is bad early."""
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    trial.report(sign * value, step)
    study.tell(trial, **({"values": sign * value} if value < 3 else {"state": TrialState.PRUNED}))


def loss(params):
    """Best at 1e-3, pruned below 1e-4 or so, and diverged above 1e-2."""
    distance = math.log10(params["lr"]) + 3
    return math.inf if distance > 1 else distance**2 * 2 + params.get("dropout", 0)


def run(study, space, n_trials, loss=loss):
    for _ in range(n_trials):
        trial = begun(study)
        told(study, trial, loss(drawn(trial, space)))
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def journal(folder):
    return JournalStorage(JournalFileBackend(str(folder / "journal")))


def sqlite(folder):
    return RDBStorage(f"sqlite:///{folder}/study.db")


@pytest.mark.parametrize(
    ("name", "make_storage"), [*((name, journal) for name in SPACES), ("tpe", sqlite), ("cmaes", sqlite)]
)
def test_9_trials_then_7_equal_16_in_one_go(name, make_storage, tmp_path):
    space = SPACES[name]
    run(opened(name, space, make_storage(tmp_path)), space, 9)
    in_two = run(opened(name, space, make_storage(tmp_path)), space, 7)
    assert in_two == run(opened(name, space), space, 16)


def test_trials_of_that_study_diverge_are_pruned_and_complete():
    study = opened("random", ALL)
    run(study, ALL, 16)
    assert {(t.state.name, math.isinf(t.value)) for t in study.trials} == {
        ("COMPLETE", False),
        ("PRUNED", False),
        ("PRUNED", True),
    }


@pytest.mark.parametrize("name", ["tpe", "random", "qmc", "gp", "cmaes"])
def test_another_seed_draws_other_points(name):
    lrs = [{params["lr"] for params in run(opened(name, ALL, seed=seed), ALL, 3)} for seed in (1, 2)]
    assert len(lrs[0] | lrs[1]) == 6


@pytest.mark.parametrize("name", ["tpe", "random", "qmc", "gp", "cmaes"])
def test_the_order_of_the_parameters_does_not_matter(name):
    backwards = dict(reversed(ALL.items()))
    assert run(opened(name, ALL), ALL, 12) == run(opened(name, backwards), backwards, 12)


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes"])
def test_more_of_a_metric_is_searched_as_less_of_a_loss(name):
    assert run(opened(name, ALL, direction="maximize"), ALL, 14) == run(opened(name, ALL), ALL, 14)


@pytest.mark.parametrize("name", SPACES)
def test_a_point_does_not_depend_on_which_worker_draws_first(name):
    space = SPACES[name]
    study = opened(name, space)
    trials = [begun(study) for _ in range(4)]
    crossed = {trial.number: drawn(trial, space) for trial in reversed(trials)}
    assert [crossed[number] for number in range(4)] == [drawn(begun(s), space) for s in [opened(name, space)] * 4]


@pytest.mark.parametrize("name", SPACES)
def test_a_trial_killed_before_it_drew_is_repeated_at_its_own_point(name):
    space = SPACES[name]
    undisturbed = run(opened(name, space), space, 3)
    study = opened(name, space)
    run(study, space, 2)
    study.tell(begun(study), state=TrialState.FAIL)
    study.add_trial(optuna.create_trial(state=TrialState.WAITING, system_attrs={"failed_trial": 2}))
    repeated = Trial(study, study._pop_waiting_trial_id())
    assert (repeated.number, drawn(repeated, space)) == (3, undisturbed[2])


@pytest.mark.parametrize("name", ["grid", "qmc"])
def test_a_repeated_trial_takes_no_point_of_the_sequence(name):
    space = SPACES[name]
    undisturbed = run(opened(name, space), space, 4)
    study = opened(name, space)
    run(study, space, 2)
    study.tell(begun(study), state=TrialState.FAIL)
    repeat = {"failed_trial": 2, "retry_history": [2]}
    study.add_trial(optuna.create_trial(state=TrialState.WAITING, system_attrs=repeat))
    drawn(Trial(study, study._pop_waiting_trial_id()), space)
    assert drawn(begun(study), space) == undisturbed[3]


@pytest.mark.parametrize("name", ["grid", "qmc"])
def test_a_trial_with_given_values_takes_no_point_of_the_sequence(name):
    space = SPACES[name]
    undisturbed = run(opened(name, space), space, 3)
    study = opened(name, space)
    run(study, space, 2)
    study.enqueue_trial({"lr": 1e-5})
    drawn(Trial(study, study._pop_waiting_trial_id()), space)
    assert drawn(begun(study), space) == undisturbed[2]


def test_the_parameters_of_a_trial_are_drawn_independently():
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    points = run(opened("random", space), space, 50, loss=lambda _: 1.0)
    assert abs(np.corrcoef([p["x"] for p in points], [p["y"] for p in points])[0, 1]) < 0.4


@pytest.mark.parametrize("name", SPACES)
def test_no_warning_reaches_the_user(name, recwarn):
    run(opened(name, SPACES[name]), SPACES[name], 12)
    assert list(recwarn) == []


def test_points_beyond_end_with_the_decade_whatever_logarithms_round_to():
    decade = FloatDistribution(4.05800050155e-05, 4.05800050155e-04, log=True)  # 1 / log10 of the spacing: 15.99...
    assert beyond(decade, 17, "low")[3:] == [4.05800050155e-06]


def test_qmc_walks_the_scrambled_sobol_sequence_from_its_first_point():
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    points = Sobol(2, scramble=True, seed=7).random(8)
    assert [
        [p["x"], p["y"]] for p in run(opened("qmc", space, seed=7), space, 8, loss=lambda _: 1.0)
    ] == points.tolist()


def test_a_gaussian_process_does_not_go_back_to_where_trials_diverge():
    study = opened("gp", {"lr": RATE})
    run(study, {"lr": RATE}, 24, loss=lambda p: math.inf if p["lr"] > 1e-3 else -math.log10(p["lr"]) - 3)
    assert sum(trial.value == math.inf for trial in study.trials[12:]) <= 3  # 7 where it does not know of them


def test_diverged_trials_are_of_cmaess_generation():
    study = opened("cmaes", {"lr": RATE})
    run(study, {"lr": RATE}, 9, loss=lambda _: math.inf)
    assert [t.system_attrs["cma:generation"] for t in study.trials] == [0] * 4 + [1] * 4 + [2]


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes"])
def test_a_study_in_which_every_trial_diverged_goes_on(name):
    assert len(run(opened(name, ALL), ALL, 13, loss=lambda _: math.inf)) == 13


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_running_trials_keep_others_away_from_their_point(name):
    alone, beside = opened(name, {"lr": RATE}), opened(name, {"lr": RATE})
    for study in (alone, beside):
        run(study, {"lr": RATE}, 12)
    for _ in range(4):
        alone.tell(begun(alone), state=TrialState.FAIL)
    point = drawn(begun(alone), {"lr": RATE})
    for _ in range(4):
        beside.enqueue_trial(point)
        drawn(Trial(beside, beside._pop_waiting_trial_id()), {"lr": RATE})
    assert drawn(begun(beside), {"lr": RATE}) != point


@pytest.mark.parametrize("name", ["tpe", "random", "qmc", "gp", "cmaes"])
def test_a_space_of_single_values_has_one_point(name):
    space = {"x": FloatDistribution(2, 2), "y": CategoricalDistribution(("a",)), "z": IntDistribution(3, 3)}
    assert run(opened(name, space), space, 12, loss=lambda _: 1.0) == [{"x": 2, "y": "a", "z": 3}] * 12


@pytest.mark.parametrize("name", ["qmc", "gp", "cmaes"])
def test_a_single_value_takes_no_dimension(name):
    plain = {"lr": RATE, "x": FloatDistribution(0, 1)}
    with_single = {"a": CategoricalDistribution(("one",)), **plain}
    points = [params | {"a": "one"} for params in run(opened(name, plain), plain, 12)]
    assert run(opened(name, with_single), with_single, 12) == points


def test_the_grid_goes_from_coarse_to_fine():
    eighths = [4, 0, 8, 2, 6, 1, 3, 5, 7]
    assert [position(k) for k in range(9)] == [Fraction(n, 8) for n in eighths]


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5, 6])
def test_2_to_the_l_plus_1_points_are_the_complete_level(level):
    assert {position(k) for k in range(2**level + 1)} == {Fraction(n, 2**level) for n in range(2**level + 1)}


def test_9_points_over_four_decades_are_the_half_decades():
    points = sorted(params["lr"] for params in run(opened("grid", {"lr": RATE}), {"lr": RATE}, 9))
    between = [float(f"3.16227766017e-{n}") for n in (5, 4, 3, 2)]
    assert points == sorted([1e-5, 1e-4, 1e-3, 0.01, 0.1, *between])


def test_a_linear_grid_is_linear():
    space = {"x": FloatDistribution(0, 0.8)}
    assert [params["x"] for params in run(opened("grid", space), space, 5, loss=lambda _: 1.0)] == [
        0.4,
        0,
        0.8,
        0.2,
        0.6,
    ]


@pytest.mark.parametrize("log", [True, False])
def test_the_ends_of_the_grid_are_the_ends_of_the_range(log):
    space = {"x": FloatDistribution(1.2345678901234567e-5, 0.98765432109876543, log=log)}
    points = run(opened("grid", space), space, 3, loss=lambda _: 1.0)
    assert [params["x"] for params in points[1:]] == [1.2345678901234567e-5, 0.98765432109876543]


@pytest.mark.parametrize(
    ("n_trials", "decades_apart"),
    [(1, 2), (3, 2), (4, 2), (5, 1), (8, 1), (9, 0.5), (16, 0.5), (17, 0.25), (33, 0.125)],
)
def test_spacing_is_that_of_the_finest_complete_level(n_trials, decades_apart):
    assert math.log10(spacing(n_trials, RATE)) == pytest.approx(decades_apart, abs=1e-12)


@pytest.mark.parametrize(
    ("n_trials", "low", "high"),
    [
        (3, [1e-6], [1.0]),
        (5, [1e-6], [1.0]),
        (9, [3.16227766017e-6, 1e-6], [0.316227766017, 1.0]),
        (16, [3.16227766017e-6, 1e-6], [0.316227766017, 1.0]),
        (
            17,
            [5.6234132519e-6, 3.16227766017e-6, 1.77827941004e-6, 1e-6],
            [0.177827941004, 0.316227766017, 0.56234132519, 1],
        ),
        (
            33,
            [5.6234132519e-6, 3.16227766017e-6, 1.77827941004e-6, 1e-6],
            [0.177827941004, 0.316227766017, 0.56234132519, 1],
        ),
    ],
)
def test_points_beyond_an_end_continue_the_grid_over_a_decade(n_trials, low, high):
    assert (beyond(RATE, n_trials, "low"), beyond(RATE, n_trials, "high")) == (low, high)


@pytest.mark.parametrize(
    ("space", "n_trials", "sampler"),
    [
        ({"lr": RATE}, GRID_UP_TO, "grid"),
        ({"lr": RATE}, GRID_UP_TO + 1, "tpe"),
        ({"x": FloatDistribution(0, 1)}, 4, "tpe"),
        ({"x": IntDistribution(1, 8, log=True)}, 4, "tpe"),
        ({"lr": RATE, "x": FloatDistribution(0, 1)}, 4, "tpe"),
        ({}, 4, "tpe"),
    ],
)
def test_few_trials_of_one_log_interval_walk_a_grid(space, n_trials, sampler):
    assert resolve("auto", space, n_trials) == sampler


@pytest.mark.parametrize("name", ["tpe", "random", "qmc", "gp", "cmaes"])
def test_a_named_sampler_is_taken_whatever_the_number_of_trials(name):
    assert [resolve(name, ALL, n_trials) for n_trials in (1, 100)] == [name, name]


def test_a_grid_of_any_size_and_scale_can_be_asked_for():
    assert [resolve("grid", {"x": d}, 100) for d in (RATE, FloatDistribution(0, 1))] == ["grid", "grid"]


@pytest.mark.parametrize(
    ("name", "space", "message"),
    [
        (
            "gird",
            ALL,
            r"^sweep.sampler=gird: there is no such sampler; did you mean grid\? There are: auto, cmaes, gp, grid",
        ),
        (
            "grid",
            {"lr": RATE, "x": RATE},
            r"^sweep.sampler=grid: takes one interval, .* over lr, x; take sweep.sampler=tpe",
        ),
        ("grid", {"x": FloatDistribution(0, 1, step=0.25)}, r"^sweep.sampler=grid: .* over x; take sweep.sampler=tpe"),
        ("grid", {}, r"^sweep.sampler=grid: .* over nothing; take"),
        (
            "cmaes",
            {"x": CategoricalDistribution(("a", "b"))},
            r"^sweep.sampler=cmaes: searches numbers, and there is none",
        ),
        ("cmaes", {"x": FloatDistribution(1, 1)}, r"^sweep.sampler=cmaes: searches numbers, and there is none"),
    ],
)
def test_a_sampler_that_cannot_search_the_space_says_what_to_take(name, space, message):
    with pytest.raises(ConfigError, match=message):
        resolve(name, space, 9)


def test_cmaes_without_its_package_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(ConfigError, match=r"^sweep.sampler=cmaes: needs the package cmaes; pip install cmaes$"):
        resolve("cmaes", ALL, 9)


CHOICES: Space = {
    "schedule": CategoricalDistribution(["cosine", "linear", "constant"]),
    "model.widths": CategoricalDistribution(["[64]", "[128]"]),
}


def test_choices_that_are_no_more_than_the_trials_are_listed_each_once() -> None:
    assert resolve("auto", CHOICES, 6) == "listed"
    listed = combinations(CHOICES)
    assert list(zip(*listed.values(), strict=True)) == [
        (schedule, widths) for schedule in ("cosine", "linear", "constant") for widths in ("[64]", "[128]")
    ]


def test_more_choices_than_trials_are_sampled() -> None:
    assert resolve("auto", CHOICES, 5) == "tpe"
    assert resolve("grid", CHOICES, 5) == "listed"


def test_choices_beside_an_interval_are_not_listed() -> None:
    space: Space = {**CHOICES, "optimizer.lr": FloatDistribution(1e-5, 1e-1, log=True)}
    assert num_combinations(space) == 0
    assert resolve("auto", space, 100) == "tpe"
