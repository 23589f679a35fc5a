import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

import stepsize
from stepsize import build
from stepsize.callbacks.checkpoint import Checkpoint
from stepsize.callbacks.objective import Objective
from stepsize.errors import CheckpointError, TrainingStoppedError
from stepsize.resume.agreement import Agreement
from stepsize.run import train
from stepsize.schedules import constant

Composed = Callable[..., DictConfig]
Weights = dict[str, Tensor]
WORDS = ("trainer=cpu", "trainer.max_epochs=3", "schedule=constant", "optimizer.lr=0.01", "logger=none")


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> dict[int, Weights]:
    """The weights at each validation, by step; after two epochs that learn, the third spoils what was learned."""
    seen: dict[int, Weights] = {}
    save = Checkpoint.on_validation_end

    def on_validation_end(self: Checkpoint, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        seen[trainer.global_step] = {k: v.clone() for k, v in pl_module.state_dict().items()}
        save(self, trainer, pl_module)

    monkeypatch.setattr(Checkpoint, "on_validation_end", on_validation_end)
    monkeypatch.setattr(constant, "constant", lambda: lambda step, horizon: 1.0 if step < 66 else 1000.0)
    return seen


def folder(cfg: DictConfig) -> Path:
    return Path(cfg.run_dir) / "checkpoints"


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_last_holds_the_last_validation_though_the_metric_got_worse(
    composed: Composed, validated: dict[int, Weights]
) -> None:
    cfg = composed(*WORDS)
    train(cfg)
    assert same(load(folder(cfg) / "last.ckpt")["state_dict"], validated[99])
    assert not same(validated[99], validated[66])


def test_best_holds_the_best_validation_though_training_went_on(
    composed: Composed, validated: dict[int, Weights]
) -> None:
    cfg = composed(*WORDS)
    train(cfg)
    assert same(load(folder(cfg) / "best.ckpt")["state_dict"], validated[66])


def test_the_one_before_is_kept_and_nothing_else_is_left(composed: Composed, validated: dict[int, Weights]) -> None:
    cfg = composed(*WORDS)
    train(cfg)
    assert sorted(p.name for p in folder(cfg).iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert same(load(folder(cfg) / "previous.ckpt")["state_dict"], validated[66])


def leaves(value: Any) -> Iterator[Any]:
    match value:
        case dict():
            for key, item in value.items():
                yield key
                yield from leaves(item)
        case list() | tuple():
            for item in value:
                yield from leaves(item)
        case _:
            yield value


@pytest.mark.parametrize("optimizer", ["adamw", "nadam", "lbfgs"])
def test_a_checkpoint_holds_plain_data_alone(composed: Composed, optimizer: str) -> None:
    cfg = composed(*WORDS, f"optimizer={optimizer}", "trainer.max_steps=2")
    train(cfg)
    kinds = {type(leaf) for leaf in leaves(load(folder(cfg) / "last.ckpt"))}
    assert kinds <= {Tensor, str, int, float, bool, type(None)}


def test_a_checkpoint_says_how_it_was_made(composed: Composed) -> None:
    words = [*WORDS, "trainer.max_steps=2"]
    cfg = composed(*words)
    train(cfg)
    assert load(folder(cfg) / "best.ckpt")["stepsize"] == {
        "format": 1,
        "version": stepsize.__version__,
        "config": build.plain(cfg),
        "words": words,
        "is_between_steps": False,
        "stops": False,
    }


def test_a_save_that_fails_ends_the_run_and_leaves_the_one_before_whole(
    composed: Composed, validated: dict[int, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, written = torch.save, []

    def save(content: Any, file: Any, *rest: Any, **keywords: Any) -> None:
        written.append(content["global_step"])
        if len(written) == 2:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        saved(content, file, *rest, **keywords)

    monkeypatch.setattr(torch, "save", save)
    cfg = composed(*WORDS)
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be written: No space left on device; last good"):
        train(cfg)
    assert written == [33, 66]
    assert same(load(folder(cfg) / "last.ckpt")["state_dict"], validated[33])
    assert same(load(folder(cfg) / "best.ckpt")["state_dict"], validated[33])


class Saves:
    """A trainer that notes at which steps it is asked to save."""

    world_size, max_steps, is_last_batch = 1, -1, False
    loggers: tuple[Any, ...] = ()
    callbacks: tuple[Any, ...] = ()

    def __init__(self, folder: Path, **options: Any) -> None:
        self.global_step = 0
        self.saved: list[int] = []
        self.callback = Checkpoint(folder, {}, [], Objective("val/loss", "min"), **options)
        self.callback._clock = Agreement(self)  # type: ignore[arg-type]
        self.callback.on_train_start(self, None)  # type: ignore[arg-type]

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        self.saved.append(self.global_step)

    def step(self) -> None:
        self.global_step += 1
        self.callback.on_step_end(self)  # type: ignore[arg-type]


@pytest.mark.parametrize(("every", "begun"), [(1, range(1, 11)), (4, [2, 4, 6, 8, 10]), (7, [3, 6, 9]), (30, [])])
def test_one_is_begun_at_every_half_of_the_steps_that_may_be_lost(tmp_path: Path, every: int, begun: Any) -> None:
    trainer = Saves(tmp_path, every_n_steps=every, every_minutes=None)
    for _ in range(10):
        trainer.step()
    assert trainer.saved == [*begun]


def test_one_is_begun_after_half_of_the_minutes_that_may_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 10_000, 7))
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    trainer = Saves(tmp_path, every_minutes=1)
    for now[0] in (float(s) for s in seconds if s <= 140):
        trainer.step()
    # A step each 7 seconds: 35 is the first after 30, and 30 seconds after each save the next is due.
    assert [7 * (step - 1) for step in trainer.saved] == [35, 70, 105, 140]


@pytest.mark.parametrize(("written", "waits"), [(0, True), (1, True), (2, False)])
def test_training_waits_where_more_would_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int, waits: bool
) -> None:
    trainer = Saves(tmp_path, every_n_steps=4, every_minutes=None)
    waited: list[int] = []
    monkeypatch.setattr(trainer.callback.files, "wait", lambda: waited.append(trainer.global_step))
    for _ in range(4):
        trainer.step()
    assert waited == [4]  # nothing was written since the start
    waited.clear()
    trainer.callback.files.written_step = written
    trainer.step()
    assert bool(waited) == waits


@pytest.mark.parametrize(
    ("option", "said"), [({"every_n_steps": 0}, "at least 1, got 0"), ({"every_minutes": 0}, "above 0, got 0")]
)
def test_an_interval_out_of_range_is_refused(tmp_path: Path, option: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Checkpoint(tmp_path, {}, [], Objective("val/loss", "min"), **option)


def test_nothing_is_saved_where_training_is_no_longer_sound(tmp_path: Path) -> None:
    class Broken:
        def look(self, trainer: L.Trainer) -> None:
            raise TrainingStoppedError("no longer finite")

    trainer = Saves(tmp_path, every_n_steps=2)
    trainer.callbacks = (Broken(),)
    with pytest.raises(TrainingStoppedError):
        trainer.step()
    assert not trainer.saved


def test_only_the_validations_of_training_are_saved(composed: Composed) -> None:
    cfg = composed(*WORDS, "trainer.max_epochs=1", "trainer.num_sanity_val_steps=1")
    train(cfg)
    assert load(folder(cfg) / "last.ckpt")["global_step"] == 33
    assert not (folder(cfg) / "previous.ckpt").exists()


def test_a_folder_that_cannot_be_made_is_said_in_a_line(composed: Composed) -> None:
    cfg = composed(*WORDS, "resume=auto")
    Path(cfg.run_dir).mkdir()
    folder(cfg).touch()
    with pytest.raises(CheckpointError, match=r"checkpoints cannot be made: File exists"):
        train(cfg)
