import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from stepsize.config import CONF


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CONF.parent / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(CONF.parent / "scripts"))  # as Python does for a script that is run: it imports its neighbours
script = load("kill_test")
outcome = load("kill_outcome")


def save(path: Path, step: int, best: int | None = None, weight: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    saved: dict[str, Any] = {"global_step": step, "epoch": 0, "callbacks": {"Objective": {"step": best}}}
    ours = {"format": 1, "version": "0", "config": {"run_dir": str(path)}, "words": [str(path)]}
    torch.save(saved | {"state_dict": {"w": torch.tensor(weight)}, "stepsize": ours}, path)


@pytest.fixture
def finished(tmp_path: Path) -> Callable[..., Path]:
    """finished("a", weight=1.0) is the folder of a run that has ended."""

    def make(name: str, weight: float = 0.0, steps: tuple[int, ...] = (1, 2), test: float = 0.5) -> Path:
        folder = tmp_path / name
        save(folder / "checkpoints" / "last.ckpt", 2, weight=weight)
        result = dict.fromkeys(("objective", "best", "last", "steps", "epochs", "examples", "ended", "skipped_steps"))
        (folder / "result.json").write_text(json.dumps(result | {"test": {"test/loss": test}}))
        with SummaryWriter(folder / "tensorboard") as writer:  # type: ignore[no-untyped-call]
            for step in steps:
                writer.add_scalar("val/loss", step / 2, step)  # type: ignore[no-untyped-call]
        return folder

    return make


def test_runs_that_ended_alike_do_not_differ(finished: Callable[..., Path]) -> None:
    assert outcome.differences(finished("a"), finished("b")) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight": 1e-7}, "last.ckpt state_dict.w"),
        ({"test": 0.25}, "result.json test"),
        ({"steps": (1,)}, "curve ('val/loss', 2): [1.0] and nothing"),
        ({"steps": (1, 2, 2)}, "curve ('val/loss', 2): [1.0] and [1.0, 1.0]"),
    ],
    ids=["weight", "result", "hole", "second curve"],
)
def test_what_differs_is_named(finished: Callable[..., Path], change: dict[str, Any], said: str) -> None:
    (line,) = outcome.differences(finished("a"), finished("b", **change))
    assert line.startswith(said)


def test_a_checkpoint_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "previous.ckpt"
    save(path, 3)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RuntimeError, match=r"previous\.ckpt cannot be loaded"):
        outcome.steps(tmp_path)


def test_a_best_checkpoint_older_than_the_last_one_says_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints" / "best.ckpt", 3)
    save(tmp_path / "checkpoints" / "last.ckpt", 6, best=6)
    with pytest.raises(RuntimeError, match="not of step 6"):
        outcome.steps(tmp_path)


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., list[str]]:
    """judged(step=9, ...) is what is said of a kill after that step where last.ckpt is at 6, and was at 3 before."""

    def judge(before: tuple[str, ...] = ("last.ckpt",), **board: int) -> list[str]:
        runs = script.Runs(tmp_path, None, 0.0, 0)
        save(tmp_path / "mlp1" / "checkpoints" / "last.ckpt", 6)
        runs._board.clear()
        for field, value in ({"resumed": 3, "step": 8, "begun": 6, "written": 6} | board).items():
            runs._board[field] = value
        runs._judge("mlp", tmp_path / "mlp1", dict.fromkeys(before, 3))
        failures: list[str] = runs.tally.failures
        return failures

    return judge


def test_a_kill_that_loses_no_more_than_agreed_is_no_failure(judged: Callable[..., list[str]]) -> None:
    assert judged() == judged(begun=9, step=9) == judged(written=3, step=13) == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"step": 14}, "8 steps are lost"),
        ({"resumed": 0}, "went on from 0 and not from 3"),
        ({"written": 9, "begun": 9}, "last.ckpt is at 6, 9 had been written and 9 begun"),
        ({"begun": 3, "written": 3}, "last.ckpt is at 6, 3 had been written and 3 begun"),
        ({"before": ("last.ckpt", "best.ckpt")}, "vanished: best.ckpt"),
    ],
)
def test_what_a_kill_must_not_leave_is_a_failure(
    judged: Callable[..., list[str]], seen: dict[str, Any], said: str
) -> None:
    (line,) = judged(**seen)
    assert line.endswith(said)


def test_every_aim_is_something_that_the_board_can_say() -> None:
    assert {*script.AIMS} <= {*script.Activity.__members__, *script.Stage.__members__}
