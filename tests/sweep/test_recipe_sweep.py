"""Sweeps of the recipe as a user starts them: what they leave, and that the best can be had again."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import RECIPE, Commands, Ended, given_in
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

SHORT = ("trainer.max_epochs=2", "trainer.accelerator=cpu")
STUDY = "runs/sweeps/s"
# Learning rates of 8e-3, 9e-2, 3e-2, 1e-2 and 3e-6.
FIFTH_IS_BAD = ("optimizer.lr=tag(log,interval(1e-6,1e-1))", "sweep.sampler=random", "sweep.seed=3")


def sweep(commands: Commands, *words: str, timeout: float = 290, **environment: str) -> Ended:
    what = () if any(word.startswith("sweep=") for word in words) else ("sweep=lr",)
    return commands.run("-m", *what, "sweep.study=s", *SHORT, *words, timeout=timeout, **environment)


def trials(commands: Commands, study: str = "s") -> list:
    return commands.trials(f"sqlite:///{commands.folder / STUDY}/study.db", study)


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Commands]:
    with given_in(tmp_path, RECIPE) as commands:
        yield commands


@pytest.fixture(scope="module")
def lion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Commands, Ended]]:
    """The learning rate of one optimizer, under the name that the words make."""
    with given_in(tmp_path_factory.mktemp("lion"), RECIPE) as commands:
        words = ("sweep.n_trials=3", "sweep.workers=2", "sweep.low=1e-3", "sweep.high=1")
        yield commands, commands.run("-m", "sweep=lr", "optimizer=lion", *SHORT, *words)


@pytest.fixture(scope="module")
def folder(lion: tuple[Commands, Ended]) -> Path:
    return lion[0].folder / "runs/sweeps/lr-digits-mlp-lion-warmup_cosine"


def test_a_sweep_leaves_what_it_promises(lion: tuple[Commands, Ended], folder: Path) -> None:
    commands, ended = lion
    assert (ended.code, ended.err) == (0, "")
    assert [p.name for p in (commands.folder / "runs/sweeps").iterdir()] == [folder.name]
    left = {p.name for p in folder.iterdir()}
    assert left == {"0", "1", "2", "study.db", "trials.csv", "best.yaml", "report.html", "plots", "multirun.yaml"}
    run = {p.name for p in (folder / "0").iterdir()}
    assert {".hydra", "train.log", "checkpoints", "tensorboard", "result.json", "output.log"} <= run
    assert sorted(p.name for p in (folder / "plots").iterdir())
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in (folder / "plots").iterdir())
    shown = [line for line in ended.out.splitlines() if line.startswith("trial ")]
    assert len(shown) == 3
    assert ended.out.splitlines()[-2:] == [f"runs/sweeps/{folder.name}/{name}" for name in ("best.yaml", "report.html")]


def test_no_line_is_wider_than_a_wide_terminal(lion: tuple[Commands, Ended]) -> None:
    assert widest(lion[1]) <= 144


def widest(ended: Ended) -> int:
    """Columns of what was printed, but for the command that is to be copied."""
    return max(len(line) for line in ended.out.splitlines() if not line.startswith("To repeat the best: "))


def best_of(folder: Path) -> tuple[int, float]:
    found = [(r["objective"]["best"], int(p.name)) for p in folder.glob("[0-9]") for r in [result(p)]]
    value, number = min(found)
    return number, value


def test_the_printed_command_reproduces_the_best_trial_exactly(lion: tuple[Commands, Ended], folder: Path) -> None:
    commands, _ = lion
    lines = (folder / "best.yaml").read_text().splitlines()
    (line,) = (line.removeprefix("#").strip() for line in lines if "OMP_NUM_THREADS=" in line)
    number, value = best_of(folder)
    assert result(folder / str(number))["objective"]["best"] == value
    command = line.replace(" python ", f" {shlex.quote(sys.executable)} ") + " run_dir=again"
    subprocess.run(command, shell=True, cwd=commands.folder, check=True, capture_output=True, timeout=200)
    again = result(commands.folder / "again")
    assert again["objective"] == result(folder / str(number))["objective"]
    assert again["best"] == result(folder / str(number))["best"]


def test_best_yaml_as_an_experiment_reproduces_the_best_trial_exactly(
    lion: tuple[Commands, Ended], folder: Path, tmp_path: Path
) -> None:
    conf = shutil.copytree(RECIPE.parent / "conf", tmp_path / "conf")
    shutil.copy(RECIPE, tmp_path / "train.py")
    shutil.copy(folder / "best.yaml", conf / "experiment" / "found.yaml")
    with given_in(tmp_path, tmp_path / "train.py") as commands:
        ended = commands.run("experiment=found", "run_dir=again")
    assert ended.code == 0, ended.err
    number, _ = best_of(folder)
    assert result(tmp_path / "again")["objective"] == result(folder / str(number))["objective"]


def test_each_trial_has_its_hparams_with_final_metrics(folder: Path) -> None:
    for run in sorted(folder.glob("[0-9]")):
        events = EventAccumulator(str(run / "tensorboard")).Reload()
        plugins = [m.plugin_data for m in events.summary_metadata.values()]
        told = [plugin_data_pb2.HParamsPluginData.FromString(p.content) for p in plugins if p.plugin_name == "hparams"]
        (row,) = (t.session_start_info.hparams for t in told if t.session_start_info.hparams)
        assert row["optimizer"].string_value == "lion"
        assert row["lr"].number_value == float(overrides(run)["optimizer.lr"])
        columns = [m.name.tag for t in told for m in t.experiment.metric_infos]
        assert columns == ["val/accuracy", "val/loss"]
        last = {tag: events.Scalars(tag)[-1].value for tag in columns}
        assert last == pytest.approx(result(run)["last"])


def overrides(run: Path) -> dict[str, str]:
    lines = (run / ".hydra/overrides.yaml").read_text().splitlines()
    return dict(line.removeprefix("- ").split("=", 1) for line in lines)


def test_divergence_is_told_as_the_worst_there_is_and_the_sweep_goes_on(recipe: Commands) -> None:
    words = ("objective.metric=val/accuracy", "objective.mode=max", "optimizer=momentum", "optimizer.lr=1e+30,0.1")
    ended = sweep(recipe, *words, "sweep.n_trials=2")
    assert ended.code == 0, ended.err
    found = {t.params["optimizer.lr"]: t for t in trials(recipe)}
    assert (found["1e+30"].state, found["1e+30"].value) == (TrialState.PRUNED, -math.inf)
    assert found["0.1"].state == TrialState.COMPLETE
    assert found["0.1"].value == result(recipe.folder / STUDY / str(found["0.1"].number))["objective"]["best"]
    assert "diverged at lr 1e+30" in ended.out
    assert widest(ended) <= 144


@pytest.mark.parametrize(
    ("policy", "loss", "gradient"),
    [
        ("stop", r"the loss is not finite at step \d+, where lr was .*", "the gradient is not finite at step 5, .*"),
        pytest.param(
            "skip",
            "3 steps in a row had a loss or gradient that is not finite, the last at .*",
            "3 steps in a row had a loss or gradient that is not finite, the last at step 7, .*",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_loss_and_a_gradient_that_are_not_finite_prune(
    recipe: Commands, policy: str, loss: str, gradient: str
) -> None:
    poison = "+callbacks.poison={_target_:poison.Poison,first_step:5,above_lr:0.2}"
    watch = (f"callbacks.monitor.non_finite={policy}", "callbacks.monitor.max_skipped_in_row=2")
    words = ("optimizer=momentum", "optimizer.lr=1e+30,0.3,0.1", "schedule=constant", poison, *watch)
    path = str(Path(__file__).parent / "application")
    ended = sweep(recipe, *words, "sweep.n_trials=3", PYTHONPATH=path)
    assert ended.code == 0, ended.err
    found = {t.params["optimizer.lr"]: t for t in trials(recipe)}
    for lr, reason in (("1e+30", loss), ("0.3", gradient)):
        assert (found[lr].state, found[lr].value) == (TrialState.PRUNED, math.inf)
        assert re.fullmatch(reason, found[lr].user_attrs["reason"])
    assert found["0.1"].state == TrialState.COMPLETE
    assert widest(ended) <= 144


@pytest.mark.slow
def test_a_bad_trial_is_pruned_at_a_validation(recipe: Commands) -> None:
    ended = sweep(recipe, "optimizer=momentum", "sweep.pruner=median", "sweep.n_trials=5", *FIFTH_IS_BAD)
    assert ended.code == 0, ended.err
    *_, bad = trials(recipe)
    assert bad.state == TrialState.PRUNED
    (step,) = bad.intermediate_values
    said = result(recipe.folder / STUDY / str(bad.number))
    assert (said["ended"], said["epochs"], said["steps"]) == (f"pruned at step {step}", 1, step)


@pytest.mark.slow
def test_the_range_is_widened_where_the_best_lies_at_its_edge_and_the_report_says_so(recipe: Commands) -> None:
    ended = sweep(recipe, "optimizer=momentum", "sweep.low=1e-6", "sweep.high=1e-3", "sweep.n_trials=3")
    assert ended.code == 0, ended.err
    tried = [t.params["optimizer.lr"] for t in trials(recipe)]
    assert tried[:3] == pytest.approx([3.16227766e-5, 1e-6, 1e-3])
    assert max(tried) > 1e-3
    page = (recipe.folder / STUDY / "report.html").read_text()
    assert "range was widened by 2 decades" in page
    assert "since the best learning rate lay at its edge" in page


BAD = {
    "optimizer.no_such=1,2": "no_such",
    "optimizer.lr=interval(1,1)": "optimizer.lr",
    "optimizer.lr=interval(1e-1,1e-3)": "optimizer.lr",
    "sweep.low=1 sweep.high=0.1": "sweep.low",
    "sweep.n_trials=0": "sweep.n_trials must be a whole number of at least 1, got 0",
    "sweep.sampler=tepe": "sweep.sampler=tepe: there is no such sampler; did you mean tpe?",
    "sweep.pruner=medain": "sweep.pruner=medain: there is no such pruner; did you mean median?",
    "objective.metric=val/acuracy sweep.pruner=median": "objective.metric=val/acuracy: never logged; did you mean",
    "sweep.storage=postgresql://me@127.0.0.1:1/x": "sweep.storage: postgresql://me@127.0.0.1:1/x cannot be reached",
    "sweep=compare optimizer=sgd": "nothing to compare",
}


QUICK = ("sweep.n_trials=0", "sweep.sampler=tepe", "optimizer.no_such=1,2")
SLOW = [pytest.param(words, marks=pytest.mark.slow) for words in BAD if words not in QUICK]


@pytest.mark.parametrize("words", [*QUICK, *SLOW])
def test_words_that_cannot_work_are_answered_in_one_line_and_leave_nothing(words: str, recipe: Commands) -> None:
    ended = sweep(recipe, *words.split())
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    assert BAD[words] in line
    assert len(line) < 300
    assert not (recipe.folder / "runs").exists()


def test_a_linear_range_of_learning_rates_is_warned_of_with_the_log_form(recipe: Commands) -> None:
    ended = sweep(recipe, "optimizer=momentum", "optimizer.lr=interval(1e-3,1e-1)", "sweep.n_trials=1")
    assert ended.code == 0
    assert ended.text.count("optimizer.lr='tag(log,interval(0.001,0.1))'") == 1


@pytest.mark.slow
def test_a_comparison_ends_with_a_table_of_means_over_fresh_seeds(recipe: Commands) -> None:
    words = ("sweep=compare", "optimizer=sgd,adamw", "sweep.n_trials=2", "sweep.confirm_seeds=2", "sweep.workers=2")
    ended = sweep(recipe, *words)
    assert ended.code == 0, ended.err
    for name in ("sgd", "adamw"):
        searched = trials(recipe, f"s/{name}")
        best = min((t for t in searched if t.value is not None), key=lambda t: t.value)
        confirmed = trials(recipe, f"s/{name}/confirm/{best.number}")
        assert sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in searched) >= 2
        assert [(t.state, t.params["seed"]) for t in confirmed] == [(TrialState.COMPLETE, 1), (TrialState.COMPLETE, 2)]
        for trial in confirmed:
            run = recipe.folder / STUDY / name / "confirm" / str(best.number) / str(trial.number)
            assert (result(run)["objective"]["best"], result(run)["seed"]) == (trial.value, trial.params["seed"])
            assert float(overrides(run)["optimizer.lr"]) == best.params["optimizer.lr"]
        assert f"{name}, seed 1: val/loss " in ended.out
    table = ended.out.rpartition("trial")[2]
    assert "sgd" in table
    assert "adamw" in table
    assert widest(ended) <= 144
    page = (recipe.folder / STUDY / "report.html").read_text()
    assert "sgd" in page


@pytest.mark.slow
def test_schedules_are_compared_each_with_its_own_study(recipe: Commands) -> None:
    words = ("sweep=compare", "schedule=cosine,linear", "sweep.n_trials=2", "sweep.confirm_seeds=2")
    ended = sweep(recipe, "optimizer=momentum", *words)
    assert ended.code == 0, ended.err
    for name in ("cosine", "linear"):
        first = trials(recipe, f"s/{name}")[0]
        assert overrides(recipe.folder / STUDY / name / str(first.number))["schedule"] == name
    assert any(line.lstrip().startswith("linear ") for line in ended.out.splitlines())


def test_a_sweep_without_m_is_told_to_add_it(recipe: Commands) -> None:
    ended = recipe.run("sweep=lr")
    assert (ended.code, ended.err) == (1, "error: sweep: a sweep is many runs; add -m: python train.py -m sweep=WORD\n")
    assert not (recipe.folder / "runs").exists()
