"""Two processes over gloo inside a trial: one study, one set of hyperparameters, and an end that both share."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import pytest
import torch
from commands import RECIPE, Commands, Ended, given_in, until
from optuna.trial import TrialState

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
STUDY = "runs/sweeps/two"
TWO = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.limit_train_batches=10")
WORDS = ("-m", "sweep=lr", "sweep.study=two", "optimizer=momentum", *TWO)
PROBE = "+callbacks.probe={_target_:ddp_probe.Probe,folder:'${hydra:runtime.output_dir}'}"


def trials(commands: Commands) -> list:
    return commands.trials(f"sqlite:///{commands.folder / STUDY}/study.db", "two")


def result(commands: Commands, number: int) -> dict:
    return json.loads((commands.folder / STUDY / str(number) / "result.json").read_text())


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Commands, Ended]]:
    """Three learning rates, one of which diverges at once; the range stays, as it is typed."""
    rates = "optimizer.lr=0.01,0.1,1e+30"
    with given_in(tmp_path_factory.mktemp("two"), RECIPE) as commands:
        words = (*WORDS, rates, "sweep.n_trials=3", "trainer.max_epochs=2", PROBE)
        yield commands, commands.run(*words, PYTHONPATH=str(TESTS))


def test_both_processes_train_with_the_same_learning_rate(two: tuple[Commands, Ended]) -> None:
    commands, ended = two
    assert ended.code == 0, ended.err
    complete = [t for t in trials(commands) if t.state == TrialState.COMPLETE]
    assert len(complete) == 2
    for trial in complete:
        folder = commands.folder / STUDY / str(trial.number)
        first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
        assert first["lr"] == second["lr"] == float(trial.params["optimizer.lr"])
        assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
        assert result(commands, trial.number)["world_size"] == 2


def test_there_is_one_study_and_one_folder(two: tuple[Commands, Ended]) -> None:
    commands, _ = two
    assert [p.name for p in (commands.folder / "runs").iterdir()] == ["sweeps"]
    assert [p.name for p in (commands.folder / "runs/sweeps").iterdir()] == ["two"]
    assert len(list(commands.folder.rglob("*.db"))) == 1
    assert sorted(p.name for p in (commands.folder / STUDY).glob("[0-9]*")) == ["0", "1", "2"]
    assert len(list(commands.folder.rglob("result.json"))) == 3


def test_divergence_ends_both_processes_and_is_told(two: tuple[Commands, Ended]) -> None:
    commands, ended = two
    (diverged,) = (t for t in trials(commands) if t.params["optimizer.lr"] == "1e+30")
    assert (diverged.state, diverged.value, diverged.user_attrs["diverged"]) == (TrialState.PRUNED, math.inf, True)
    assert f"trial {diverged.number}: diverged at lr 1e+30" in ended.out
    assert result(commands, diverged.number)["ended"].startswith("stopped: the loss is not finite")
    commands.wait_for_none_left()


def test_pruning_stops_both_processes(tmp_path: Path) -> None:
    # Learning rates of 8e-3, 9e-2, 3e-2, 1e-2 and 3e-6.
    rates = ("optimizer.lr=tag(log,interval(1e-6,1e-1))", "sweep.sampler=random", "sweep.seed=3")
    words = ("sweep.pruner=median", "sweep.n_trials=5", "trainer.max_epochs=2", *rates)
    with given_in(tmp_path, RECIPE) as commands:
        ended = commands.run(*WORDS, *words, timeout=290)
        assert ended.code == 0, ended.err
        *_, bad = trials(commands)
        assert bad.state == TrialState.PRUNED
        (step,) = bad.intermediate_values
        assert result(commands, bad.number)["ended"] == f"pruned at step {step}"
        assert result(commands, bad.number)["epochs"] == 1
        commands.wait_for_none_left()


def test_an_interrupted_trial_leaves_neither_process(tmp_path: Path) -> None:
    with given_in(tmp_path, RECIPE) as commands:
        sweep = commands.start(*WORDS, "trainer.max_epochs=100000")
        until(lambda: list(tmp_path.rglob("last.ckpt")))
        sweep.signal(SIGTERM)
        ended = sweep.end()
        assert ended.code == 143, ended.err
        assert {t.state for t in trials(commands)} == {TrialState.WAITING}
        commands.wait_for_none_left()
