from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.profilers import Profiler, SimpleProfiler
from omegaconf import DictConfig

from stepsize import build
from stepsize.callbacks.objective import Objective
from stepsize.no_profiler import NoProfiler
from stepsize.run import train

Composed = Callable[..., DictConfig]


def profiler(cfg: DictConfig) -> Profiler:
    trainer: L.Trainer = build.trainer(cfg, Path(cfg.run_dir), Objective("val/loss", "min"))
    return trainer.profiler


def test_a_run_is_not_profiled_unless_asked(composed: Composed) -> None:
    assert type(profiler(composed("trainer=cpu"))) is NoProfiler


def test_the_profiler_that_was_asked_for_is_kept(composed: Composed) -> None:
    assert type(profiler(composed("trainer=cpu", "trainer.profiler=simple"))) is SimpleProfiler


def test_the_profiler_that_was_asked_for_measures_the_run(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: dict[str, int] = {}
    monkeypatch.setattr(
        SimpleProfiler,
        "teardown",
        lambda self, stage: measured.update({k: len(v) for k, v in self.recorded_durations.items()}),
    )
    train(composed("trainer=cpu", "trainer.max_steps=7", "trainer.profiler=simple", "logger=none"))
    assert measured["run_training_batch"] == 7


def test_an_error_passes_through() -> None:
    with pytest.raises(KeyError, match="out"), NoProfiler().profile("outer"), NoProfiler().profile("inner"):
        raise KeyError("out")
