import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import lightning as L
import pytest
from matplotlib.image import imread
from omegaconf import DictConfig

from stepsize.callbacks.objective import Objective
from stepsize.config import CONF
from stepsize.run import train

Composed = Callable[..., DictConfig]
Preview = Callable[..., int]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CONF.parent / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load("preview_schedule")


@pytest.fixture
def preview(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Preview:
    """preview("schedule=linear") is the script's exit code, run in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("STEPSIZE_ONE_LINE_ERRORS", "1")
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr(script.logging, "disable", lambda level: None)

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["preview_schedule.py", *words])
        try:
            script.main()
        except SystemExit as end:
            return int(str(end.code))
        return 0

    return run


def used(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """The learning rates that a run takes its steps with."""
    rates: dict[str, list[float]] = {}

    def before_step(self: L.Callback, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: object) -> None:
        for group in trainer.optimizers[0].param_groups:
            rates.setdefault(group["name"], []).append(float(group["lr"]))

    monkeypatch.setattr(Objective, "on_before_optimizer_step", before_step)
    train(cfg)
    return rates


@pytest.mark.parametrize(
    "words",
    [
        ("schedule=warmup_cosine",),
        ("schedule=one_cycle", "optimizer=momentum"),
        ("schedule=step", "trainer.max_steps=40"),
        ("schedule=warmup_linear", "schedule.warmup_steps=7", "trainer.accumulate_grad_batches=4"),
        ("schedule=cosine_restarts", "param_groups.layer_decay=0.5"),
        ("schedule=inverse_sqrt", "trainer.limit_train_batches=10"),
    ],
    ids=" ".join,
)
def test_what_is_drawn_is_what_the_run_does_at_every_step(
    composed: Composed, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    words = ("trainer=cpu", "trainer.max_epochs=2", "logger=none", "callbacks=minimal", *words)
    drawn = script.planned(composed(*words))
    taken = used(composed(*words), monkeypatch)
    assert {name: rates[:-1] for name, rates in drawn.items()} == taken


def test_the_curve_is_printed_over_the_whole_run(preview: Preview, capsys: pytest.CaptureFixture[str]) -> None:
    assert preview("schedule=linear", "optimizer.lr=0.012", "trainer.max_epochs=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "optimizer=adamw schedule=linear, 66 steps"
    assert lines[1].startswith(" 1.20e-02 █")
    assert re.fullmatch(r" 1\.00e-03 █+▇?.* ", lines[12])
    assert re.fullmatch(r" +step 0 +66", lines[13])
    assert lines[14] == "schedule_linear.png"


def test_the_curve_is_saved_as_a_picture(preview: Preview, tmp_path: Path) -> None:
    preview("schedule=one_cycle")
    picture = imread(tmp_path / "schedule_one_cycle.png")
    assert picture.shape[:2] == (600, 1200)
    assert picture.std() > 0.01


def test_nothing_but_the_picture_is_left(preview: Preview, tmp_path: Path) -> None:
    preview("schedule=cosine")
    assert [p.name for p in tmp_path.iterdir()] == ["schedule_cosine.png"]


def test_bars_are_as_high_as_their_values() -> None:
    *rows, axis = script.bars([0.0, 0.5, 1.0], width=3).splitlines()
    columns = list(zip(*(row[10:] for row in rows), strict=True))
    assert ["".join(column).count("█") for column in columns] == [0, 6, 12]
    assert axis == "     step 0 2"


@pytest.mark.parametrize(
    "words",
    [
        ("callbacks.progress.refresh_rate=5",),
        ("logger.flush_secs=1",),
        ("callbacks=early_stopping", "callbacks.early_stopping.patience=2"),
        ("logger=csv",),
        ("experiment=digits_mlp", "callbacks.checkpoint=null"),
    ],
    ids=" ".join,
)
def test_the_words_of_a_run_are_taken_as_they_are(preview: Preview, words: tuple[str, ...]) -> None:
    assert preview(*words, "trainer.max_epochs=1") == 0


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_says_how_it_is_used(preview: Preview, capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert preview(word) == 0
    assert "python scripts/preview_schedule.py schedule=warmup_cosine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("schedule=cosin",), "did you mean cosine?"),
        (("schedule.warmup_fraction=1.5",), "schedule: warmup_fraction must be in"),
        (("optimizer.weigth_decay=0.1",), "did you mean weight_decay?"),
        (("trainer.max_epochs=-1", "schedule=constant"), "a run without an end has no curve to draw"),
        (("trainer.max_epochs=-1", "schedule=linear"), "set trainer.max_steps"),
    ],
    ids=["word", "value", "key", "endless", "endless and needing an end"],
)
def test_what_cannot_be_drawn_is_answered_in_one_line(
    preview: Preview, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    assert preview(*words) == 1
    answer = capsys.readouterr().err.strip().splitlines()[-1]
    assert answer.startswith("error: ")
    assert said in answer
    assert not list(tmp_path.iterdir())
