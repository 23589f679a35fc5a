"""mode=test: what a run has trained is tested again, with the run's own choices and numbers."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from stepsize.check import check
from stepsize.errors import ConfigError
from stepsize.run import evaluate, train
from stepsize.schedules import constant

Composed = Callable[..., DictConfig]
Command = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("trainer=cpu", "trainer.max_epochs=3", "callbacks.progress.refresh_rate=0")


def result(folder: Path | str) -> dict:
    return json.loads((Path(folder) / "result.json").read_text())


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def trained(composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that spoils in its last epoch what it has learned before."""
    with monkeypatch.context() as patch:
        patch.setattr(constant, "constant", lambda: lambda step, horizon: 1.0 if step < 66 else 1000.0)
        cfg = composed(*QUICK, "optimizer.lr=0.01", "schedule=constant")
        train(cfg)
    return Path(cfg.run_dir).rename(tmp_path / "trained")


@pytest.mark.parametrize(
    "words",
    [
        ("model=mlp", "data=digits"),
        ("model=convnet", "data=mnist1d", "optimizer=schedule_free_adamw", "schedule=constant", "model.widths=[8,16]"),
    ],
    ids=["mlp", "batch_norm-schedule_free"],
)
def test_the_command_gives_the_numbers_of_the_run_itself(
    command: Command, tmp_path: Path, words: tuple[str, ...]
) -> None:
    assert command(*QUICK, *words, "run_dir=run").returncode == 0
    done = command("mode=test", "resume=run")
    assert done.returncode == 0, done.stderr
    (again,) = tmp_path.glob("runs/*/*/result.json")
    assert result(again.parent)["test"] == result(tmp_path / "run")["test"]
    assert "run/checkpoints/best.ckpt:  test/loss" in done.stdout


def test_the_value_is_the_objective_s_metric_on_the_test_data(composed: Composed, trained: Path) -> None:
    expected = result(trained)["test"]
    assert evaluate(composed("mode=test", f"resume={trained}", *QUICK)) == expected["test/loss"]


def test_the_value_is_an_accuracy_where_that_is_the_objective(composed: Composed, trained: Path) -> None:
    words = ("objective.metric=val/accuracy", "logger=none")
    value = evaluate(composed("mode=test", f"resume={trained}", *QUICK, *words))
    assert value == result(trained)["test"]["test/accuracy"]


def test_a_checkpoint_that_is_named_is_the_one_that_is_tested(composed: Composed, trained: Path) -> None:
    last = trained / "checkpoints" / "last.ckpt"
    cfg = composed("mode=test", f"resume={last}", *QUICK)
    assert evaluate(cfg) != result(trained)["test"]["test/loss"]
    assert result(cfg.run_dir)["checkpoint"] == str(last)


def test_the_run_stays_as_it_was_and_a_result_is_all_that_is_written(composed: Composed, trained: Path) -> None:
    before = contents(trained)
    cfg = composed("mode=test", f"resume={trained}", *QUICK)
    evaluate(cfg)
    assert contents(trained) == before
    assert [file.name for file in Path(cfg.run_dir).iterdir()] == ["result.json"]
    said = result(cfg.run_dir)
    assert (said["ended"], said["checkpoint"]) == ("finished", str(trained / "checkpoints" / "best.ckpt"))
    assert said["versions"] == result(trained)["versions"]


def test_the_newest_run_of_the_name_is_tested(
    composed: Composed, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/mine").mkdir()
    trained.rename("runs/mine/first")
    cfg = composed("mode=test", "resume=latest", "name=mine", *QUICK)
    evaluate(cfg)
    assert result(cfg.run_dir)["checkpoint"] == str(tmp_path / "runs/mine/first/checkpoints/best.ckpt")


def test_batches_of_another_size_and_data_elsewhere_may_be_tested(composed: Composed, trained: Path) -> None:
    value = evaluate(composed("mode=test", f"resume={trained}", *QUICK, "data.batch_size=7"))
    assert value == pytest.approx(result(trained)["test"]["test/loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("resume=null",), "mode=test: say which network, by resume= and a run's folder or a checkpoint"),
        (("resume=nowhere",), "nowhere: there is no such folder and no such checkpoint"),
        (("resume=auto",), "resume=auto: continues the run in run_dir="),
        (("resume=latest", "name=never"), "there is no run with a checkpoint in runs/never"),
        (("model.widths=[3]",), r"model\.widths was \[64\] and is now \[3\]; leave it as it was"),
        (("data.split_seed=1",), r"data\.split_seed was 0 and is now 1; leave it as it was"),
    ],
)
def test_what_cannot_be_tested_is_refused(composed: Composed, trained: Path, words: tuple[str, ...], said: str) -> None:
    cfg = composed("mode=test", f"resume={trained}", *QUICK, *words)
    with pytest.raises(ConfigError, match=said):
        evaluate(cfg)
    assert not Path(cfg.run_dir).exists()


def test_it_is_not_written_over_a_run(composed: Composed, trained: Path) -> None:
    cfg = composed("mode=test", f"resume={trained}", *QUICK)
    cfg.run_dir = str(trained)
    with pytest.raises(ConfigError, match=r"holds a run already; mode=test writes into a folder of its own"):
        check(cfg)


@pytest.mark.parametrize("words", [("-m",), ("-m", "sweep=lr")])
def test_it_is_refused_where_there_are_many_runs(
    command: Command, trained: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = command(*words, "mode=test", f"resume={trained}", *QUICK)
    assert done.returncode == 1
    assert done.stderr.endswith("error: mode=test: evaluates one network, and -m is for many runs; drop -m\n")
    assert not list(tmp_path.rglob("study.db"))
