"""Runs that are cut off at a chosen moment and gone on with, and what there is to compare of them."""

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf import DictConfig
from torch import Tensor
from witness import Log, Seen, Witness

from stepsize import build
from stepsize.errors import RunInterrupted
from stepsize.run import train

CONF = Path(__file__).parents[2] / "conf"


class Killed(BaseException):
    """Ends a run as a kill does: nothing more is saved."""


class Cut(L.Callback):
    """Cuts a run off after, or in what follows, a training batch.

    Args:
        moment: "step": SIGTERM at the batch's end, which saves at the end of the optimizer step that it belongs to.
            "validation": SIGTERM in the validation that follows the batch, before its second batch.
            "validated": killed when that validation has been saved.
            "epoch": killed at the end of the epoch.
            "batch": killed when the batch begins.
        epoch, batch: the batch's place, both from 0.
    """

    def __init__(self, moment: str, epoch: int, batch: int) -> None:
        self.moment, self.place = moment, (epoch, batch)

    def __str__(self) -> str:
        return f"{self.moment} {self.place[0]}.{self.place[1]}"

    def setup(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        # The module's own hook comes after those of all callbacks, and so after the checkpoint.
        task.on_validation_end = lambda: self._kill(trainer, "validated")  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: L.Trainer, *rest: Any) -> None:
        self._kill(trainer, "batch")

    def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        self._signal(trainer, "step")

    def on_validation_batch_start(self, trainer: L.Trainer, task: Any, batch: Any, batch_idx: int, *rest: Any) -> None:
        if batch_idx == 1:
            self._signal(trainer, "validation")

    def on_train_epoch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        self._kill(trainer, "epoch")

    def _signal(self, trainer: L.Trainer, moment: str) -> None:
        if self._is_now(trainer, moment):
            trainer._signal_connector.received = signal.SIGTERM  # a real one is heard a moment later

    def _kill(self, trainer: L.Trainer, moment: str) -> None:
        if self._is_now(trainer, moment):
            raise Killed

    def _is_now(self, trainer: L.Trainer, moment: str) -> bool:
        here = trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx
        return (moment, here) == (self.moment, self.place) and trainer.state.fn == TrainerFn.FITTING


@dataclass
class Run:
    """What a run was seen to do, and what it left.

    Args:
        folder: of the run.
        seen: its training batches.
        logged: the last value of each (tag, step).
        end: weights and states at the end of training; empty where that did not come.
        redone: batches that were lost, and trained on again.
    """

    folder: Path
    seen: list[Seen]
    logged: dict[tuple[str, int | None], float]
    end: dict[str, Any]
    redone: int = 0

    def checkpoint(self, name: str) -> dict[str, Any]:
        """A checkpoint, but for what was typed."""
        saved: dict[str, Any] = torch.load(self.folder / "checkpoints" / name, weights_only=True)
        del saved["stepsize"]["words"], saved["stepsize"]["config"]
        return saved

    @property
    def result(self) -> dict[str, Any]:
        """What result.json says of the training."""
        said = json.loads((self.folder / "result.json").read_text())
        keys = ("ended", "objective", "best", "last", "test", "steps", "skipped_steps", "epochs", "examples")
        return {key: said[key] for key in keys}


def composed(words: Sequence[str], folder: Path, resume: str | None = None) -> DictConfig:
    """What the command line would compose, without Hydra's own part."""
    cfg = _composed(tuple(words)).copy()
    cfg.run_dir, cfg.resume = str(folder), resume
    return cfg


@cache
def _composed(words: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*words, "name=run"])


def trained(cfg: DictConfig, cut: Cut | None = None) -> Run:
    """Train, and tell; to the end, or until the cut.

    Args:
        cfg: composed.
        cut: a moment that has to come.
    """
    witness, log = Witness(), Log()
    with watched(witness, log, [cut] if cut else []):
        if cut is None:
            train(cfg)
        else:
            with pytest.raises((RunInterrupted, Killed)):
                train(cfg)
    return Run(Path(cfg.run_dir), witness.seen, log.values, witness.end)


@contextmanager
def watched(witness: Witness, log: Log, cuts: Sequence[Cut]) -> Iterator[None]:
    """Have every trainer that is built watched."""
    build_trainer = build.trainer

    def build_watched(cfg: DictConfig, *rest: Any) -> L.Trainer:
        made = build_trainer(cfg, *rest)
        made.logger = log
        made.callbacks[:0] = [witness, *cuts]  # type: ignore[attr-defined]
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "trainer", build_watched)
        yield


def joined(parts: Sequence[Run]) -> Run:
    """A run's parts as one; what was lost and done again counts as the last time."""
    seen: list[Seen] = []
    for part in parts:
        seen = [s for s in seen if not part.seen or s.place < part.seen[0].place] + part.seen
    logged = {k: v for part in parts for k, v in part.logged.items()}
    return Run(parts[-1].folder, seen, logged, parts[-1].end, sum(len(part.seen) for part in parts) - len(seen))


def assert_same(run: Run, expected: Run, checkpoints: Sequence[str] = ("last.ckpt", "best.ckpt")) -> None:
    """Assert that a run did and left, in every bit, what another did.

    Args:
        run: was cut off.
        expected: was not.
        checkpoints: to compare, too.
    """
    assert run.seen == expected.seen
    assert run.logged == expected.logged
    assert run.result == expected.result
    assert list(differences(run.end, expected.end, "end")) == []
    for name in checkpoints:
        assert list(differences(run.checkpoint(name), expected.checkpoint(name), name)) == []


def differences(one: Any, other: Any, path: str) -> Iterator[str]:
    """Where two trees of plain data and tensors differ in a bit."""
    match one, other:
        case dict(), dict():
            yield from (f"{path}.{key}: in one alone" for key in sorted(map(str, one.keys() ^ other.keys())))
            for key in one.keys() & other.keys():
                yield from differences(one[key], other[key], f"{path}.{key}")
        case ((list() | tuple()), (list() | tuple())) if len(one) == len(other):
            for index, pair in enumerate(zip(one, other, strict=True)):
                yield from differences(*pair, f"{path}[{index}]")
        case Tensor(), Tensor() if (one.dtype, one.shape) == (other.dtype, other.shape):
            if not torch.equal(*(x.flatten().view(torch.uint8) for x in (one, other))):
                yield f"{path}: {(one != other).sum()} of {one.numel()} numbers"
        case _:
            if repr(one) != repr(other):  # of a float, all its digits
                yield f"{path}: {one!r:.80} and {other!r:.80}"
