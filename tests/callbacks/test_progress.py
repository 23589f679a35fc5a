import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from stepsize.callbacks.progress import Progress
from stepsize.run import train


def shown(**metrics: float) -> dict[str, Any]:
    logged = {k.replace("_", "/", 1): torch.tensor(v) for k, v in metrics.items()}
    trainer: Any = SimpleNamespace(callback_metrics=logged)
    return Progress().get_metrics(trainer, None)


def test_validation_metrics_are_shown_to_four_digits() -> None:
    assert shown(val_loss=0.123456, val_accuracy=1.0) == {"val/loss": "0.1235", "val/accuracy": "1"}


def test_the_step_is_not_shown() -> None:
    assert "step" not in shown(val_loss=1.0, step=33.0)


def test_before_the_first_validation_there_is_nothing_to_show() -> None:
    assert shown() == {}


def test_where_there_is_no_terminal_nothing_is_drawn(
    composed: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    train(composed("trainer=cpu", "trainer.max_epochs=1", "logger=none", "callbacks.progress.refresh_rate=5"))
    assert not sys.stdout.isatty()
    assert re.search(r"Epoch|it/s|\r", "".join(capsys.readouterr())) is None


def test_the_bar_of_a_run_shows_its_validation(
    composed: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    train(composed("trainer=cpu", "trainer.max_epochs=2", "logger=none", "callbacks.progress.refresh_rate=5"))
    drawn = "".join(capsys.readouterr())
    assert re.search(r"Epoch 1: .*val/loss=\d\.\d+, val/accuracy=0\.\d+\]", drawn)
    assert "step=" not in drawn


@pytest.mark.parametrize(("rate", "drawings"), [(33, 2), (11, 4)])
def test_the_bar_is_drawn_every_refresh_rate_batches(
    composed: Callable[..., DictConfig],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rate: int,
    drawings: int,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    words = ("trainer=cpu", "trainer.max_epochs=1", "logger=none", f"callbacks.progress.refresh_rate={rate}")
    train(composed(*words))  # 33 batches
    counts = re.findall(r"Epoch 0: .*? (\d+)/33 ", "".join(capsys.readouterr()))
    assert len(set(counts)) == drawings
