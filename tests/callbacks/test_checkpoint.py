import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf import DictConfig
from torch import Tensor

import stepsize
from stepsize import build
from stepsize.callbacks.checkpoint import Checkpoint
from stepsize.callbacks.objective import Objective
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


def test_nothing_else_is_left(composed: Composed) -> None:
    cfg = composed(*WORDS)
    train(cfg)
    assert sorted(p.name for p in folder(cfg).iterdir()) == ["best.ckpt", "last.ckpt"]


def test_best_and_last_are_whole_where_there_are_no_hard_links(
    composed: Composed, validated: dict[int, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: object, target: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", link)
    cfg = composed(*WORDS)
    train(cfg)
    assert same(load(folder(cfg) / "best.ckpt")["state_dict"], validated[66])
    assert same(load(folder(cfg) / "last.ckpt")["state_dict"], validated[99])
    assert sorted(p.name for p in folder(cfg).iterdir()) == ["best.ckpt", "last.ckpt"]


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


def test_a_checkpoint_holds_the_composed_config_and_the_version(composed: Composed) -> None:
    cfg = composed(*WORDS, "trainer.max_steps=2")
    train(cfg)
    said = load(folder(cfg) / "best.ckpt")["stepsize"]
    assert said == {"version": stepsize.__version__, "config": build.plain(cfg)}


def test_a_save_that_fails_leaves_the_one_before_whole(
    composed: Composed, validated: dict[int, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, written = torch.save, []

    def save(content: Any, file: Any, *rest: Any, **keywords: Any) -> None:
        written.append(content["global_step"])
        if len(written) == 2:
            file.write(b"half of it")
            raise OSError("no space left on device")
        saved(content, file, *rest, **keywords)

    monkeypatch.setattr(torch, "save", save)
    cfg = composed(*WORDS)
    with pytest.raises(OSError, match="no space left"):
        train(cfg)
    assert written == [33, 66]
    assert same(load(folder(cfg) / "last.ckpt")["state_dict"], validated[33])
    assert same(load(folder(cfg) / "best.ckpt")["state_dict"], validated[33])


class Disk:
    """A trainer that only saves: the number of its step; or half of it, and then fails."""

    def __init__(self, step: int, *, fails: bool = False, **state: Any) -> None:
        self.global_step, self.fails = step, fails
        self.is_global_zero, self.sanity_checking = True, False
        self.state = SimpleNamespace(fn=TrainerFn.FITTING)
        self.__dict__ |= state

    def save_checkpoint(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:  # in place, as the simplest checkpoint plugins write
            file.write(b"%d" % self.global_step)
            if self.fails:
                raise OSError("no space left on device")


def checkpoint(tmp_path: Path, best_step: int | None) -> Checkpoint:
    objective = Objective("val/loss", "min")
    objective.step = best_step
    return Checkpoint(tmp_path / "checkpoints", {}, objective)


def end_validation(callback: Checkpoint, trainer: Any) -> None:
    callback.objective.improved = callback.objective.step == trainer.global_step
    callback.on_validation_end(trainer, None)  # type: ignore[arg-type]


def test_the_next_last_does_not_write_through_to_best(tmp_path: Path) -> None:
    callback = checkpoint(tmp_path, best_step=1)
    end_validation(callback, Disk(1))
    end_validation(callback, Disk(2))
    assert (callback.best.read_bytes(), callback.last.read_bytes()) == (b"1", b"2")


def test_a_save_that_fails_after_a_run_was_killed_between_link_and_rename_spares_last(tmp_path: Path) -> None:
    callback = checkpoint(tmp_path, best_step=1)
    end_validation(callback, Disk(1))
    os.link(callback.last, callback.last.with_suffix(".partial"))
    with pytest.raises(OSError, match="no space left"):
        end_validation(callback, Disk(2, fails=True))
    assert (callback.best.read_bytes(), callback.last.read_bytes()) == (b"1", b"1")


@pytest.mark.parametrize(
    "state",
    [{"sanity_checking": True}, {"state": SimpleNamespace(fn=TrainerFn.VALIDATING)}],
    ids=["sanity", "validate"],
)
def test_only_the_validations_of_training_are_saved(tmp_path: Path, state: dict[str, Any]) -> None:
    end_validation(checkpoint(tmp_path, best_step=None), Disk(0, **state))
    assert not list(tmp_path.iterdir())
