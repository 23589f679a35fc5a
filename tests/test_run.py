import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from stepsize.errors import ConfigError, TrainingStoppedError
from stepsize.run import train
from stepsize.schedules import constant
from stepsize.schedules.linear import linear

Composed = Callable[..., DictConfig]
QUICK = ("trainer.accelerator=cpu", "trainer.max_epochs=2", "callbacks.progress.refresh_rate=0")


def checkpoint(cfg: DictConfig, name: str = "last") -> dict:
    return torch.load(Path(cfg.run_dir) / "checkpoints" / f"{name}.ckpt", weights_only=True)


def result(cfg: DictConfig) -> dict:
    return json.loads((Path(cfg.run_dir) / "result.json").read_text())


def test_the_first_run_learns_the_digits(composed: Composed) -> None:
    cfg = composed("trainer.accelerator=cpu", "optimizer.lr=0.01", "trainer.max_epochs=5")
    assert train(cfg) < 0.2
    assert result(cfg)["test"]["test/accuracy"] > 0.93


def test_the_objective_is_the_best_value_of_the_run_and_not_the_last(
    composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # two epochs that learn, then one that spoils what was learned
    monkeypatch.setattr(constant, "constant", lambda: lambda step, horizon: 1.0 if step < 66 else 1000.0)
    cfg = composed(*QUICK, "trainer.max_epochs=3", "schedule=constant", "optimizer.lr=0.01")
    objective = train(cfg)
    said = result(cfg)
    assert objective == said["objective"]["best"] == said["best"]["val/loss"]
    assert objective < said["last"]["val/loss"]
    assert (said["objective"]["step"], said["steps"]) == (66, 99)


def test_the_tested_weights_are_those_of_the_best_checkpoint(composed: Composed) -> None:
    cfg = composed(*QUICK, "objective.metric=val/accuracy", "objective.mode=max")
    assert train(cfg) == result(cfg)["best"]["val/accuracy"]
    assert checkpoint(cfg, "best")["global_step"] == result(cfg)["objective"]["step"]


def test_a_result_says_what_the_run_was(composed: Composed) -> None:
    cfg = composed(*QUICK, "data.batch_size=50", "trainer.accumulate_grad_batches=4")
    train(cfg)
    said = result(cfg)
    batches = 1079 // 50  # the digits less a fifth for validation and a fifth for the test
    assert said["examples"] == 2 * batches * 50
    assert said["steps"] == 2 * -(-batches // 4)
    assert (said["epochs"], said["ended"], said["seed"], said["parameters"]) == (2, "finished", 0, 4810)


def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for folder in ("first", "second"):
        cfg = composed(*QUICK, "model.dropout=0.5")
        monkeypatch.setattr("stepsize.run.run_folder", lambda cfg, f=folder: tmp_path / f)
        train(cfg)
        weights.append(torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_seed_gives_other_weights_and_another_order(composed: Composed) -> None:
    objectives = set()
    for seed in (0, 1):
        objectives.add(train(composed(*QUICK[:2], f"seed={seed}", "callbacks=minimal", "logger=none")))
        (Path(composed().run_dir) / "result.json").unlink()
    assert len(objectives) == 2


def test_a_checkpoint_says_how_it_was_made(composed: Composed) -> None:
    cfg = composed(*QUICK, "optimizer=nadam")
    train(cfg)
    made = checkpoint(cfg)["stepsize"]["config"]
    assert (made["optimizer"]["_target_"], made["optimizer"]["betas"]) == ("torch.optim.NAdam", [0.9, 0.999])


def test_the_schedule_steps_with_the_optimizer_and_ends_with_the_run(composed: Composed) -> None:
    cfg = composed(*QUICK, "trainer.accumulate_grad_batches=4", "schedule=linear")
    train(cfg)
    saved = checkpoint(cfg)
    assert saved["lr_schedulers"][0]["step"] == saved["global_step"] == 2 * -(-33 // 4)
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] == 0


def test_max_steps_sets_the_horizon(composed: Composed) -> None:
    cfg = composed(*QUICK[::2], "trainer.max_steps=40", "schedule=linear")
    train(cfg)
    assert checkpoint(cfg)["optimizer_states"][0]["param_groups"][0]["lr"] == 0
    assert result(cfg)["steps"] == 40


def test_a_run_that_goes_on_from_its_folder_equals_one_that_was_never_stopped(composed: Composed) -> None:
    words = (*QUICK[::2], "schedule=constant", "model.dropout=0.0", "data.crop_padding=1")
    whole = composed(*words, "trainer.max_epochs=4")
    train(whole)
    expected = checkpoint(whole)
    shutil.rmtree(whole.run_dir)
    train(composed(*words, "trainer.max_epochs=2"))
    cfg = composed(*words, "trainer.max_epochs=4")
    cfg.resume = cfg.run_dir
    train(cfg)
    resumed = checkpoint(cfg)
    assert resumed["global_step"] == expected["global_step"] == 4 * 33
    assert all(torch.equal(resumed["state_dict"][k], v) for k, v in expected["state_dict"].items())


@pytest.mark.parametrize(
    ("words", "said", "rates"),
    [
        ([], "the schedule's horizon was 8 steps and is now 16", [0.01, 0.005]),
        (
            ["task.horizon_from=checkpoint"],
            "the schedule keeps its horizon of 8 steps, though the run now has 16",
            [0, 0],
        ),
    ],
)
def test_an_extended_run_says_which_horizon_its_schedule_has(
    composed: Composed, caplog: pytest.LogCaptureFixture, words: list[str], said: str, rates: list[float]
) -> None:
    start = ("trainer=cpu", "schedule=linear", "optimizer.lr=0.02", "logger=none")
    train(composed(*start, "trainer.max_steps=8"))
    cfg = composed(*start, "trainer.max_steps=16", *words)
    cfg.resume = cfg.run_dir
    caplog.clear()
    with caplog.at_level(logging.INFO):
        train(cfg)
    assert said in caplog.text
    scheduler = checkpoint(cfg)["lr_schedulers"][0]
    multiplier = linear()
    assert [0.02 * multiplier(step, scheduler["horizon"]) for step in (8, 12)] == pytest.approx(rates)


def test_another_number_of_processes_goes_on_in_the_epoch_after_the_examples_that_were_seen(
    composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("trainer=cpu", "schedule=constant", "logger=none", "trainer.max_steps=10")
    cfg = composed(*words)
    train(cfg)
    path = Path(cfg.run_dir) / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)  # as two processes would have written it
    saved["Digits"]["world_size"] = 2
    loop = saved["loops"]["fit_loop"]["epoch_loop.state_dict"]
    loop["processes"] = loop["processes"] * 2
    torch.save(saved, path)
    cfg = composed(*words, "trainer.max_steps=-1", "trainer.max_epochs=1")
    cfg.resume = cfg.run_dir
    train(cfg)
    assert result(cfg)["steps"] == 10 + (33 - 20)


def test_a_loss_that_is_not_finite_stops_the_run_with_step_lr_and_checkpoint(composed: Composed) -> None:
    cfg = composed(*QUICK, "optimizer=sgd", "optimizer.lr=1e20", "schedule=constant")
    with pytest.raises(
        TrainingStoppedError, match=r"at step \d, where lr was 1e\+20: .*last good checkpoint: none yet"
    ):
        train(cfg)
    assert result(cfg)["ended"].startswith("stopped: the loss is not finite")
    assert not list(Path(cfg.run_dir).glob("checkpoints/*"))


def test_no_checkpoint_holds_weights_that_are_not_finite(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    # the lr explodes in the second epoch, between two looks at the losses
    monkeypatch.setattr(constant, "constant", lambda: lambda step, horizon: 1.0 if step < 60 else 1e30)
    cfg = composed(*QUICK, "optimizer=sgd", "schedule=constant", "trainer.log_every_n_steps=0")
    with pytest.raises(TrainingStoppedError, match=r"last good checkpoint: .*last\.ckpt"):
        train(cfg)
    assert checkpoint(cfg)["global_step"] == 33
    assert all(torch.isfinite(w).all() for w in checkpoint(cfg)["state_dict"].values())


def test_the_network_can_be_compiled_and_its_checkpoint_loads_without(
    composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    cfg = composed(*QUICK, "compile=true")
    train(cfg)
    assert len(compiled) == 1
    assert "network.head.weight" in checkpoint(cfg)["state_dict"]


def test_gradients_are_clipped_beside_a_fused_optimizer_under_bf16(composed: Composed) -> None:
    train(composed(*QUICK, "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.5"))


def test_clipping_bounds_the_step_of_sgd(composed: Composed) -> None:
    moved = []
    for clip in ("null", "1e-6"):
        cfg = composed(*QUICK, "optimizer=sgd", "schedule=constant", f"trainer.gradient_clip_val={clip}", "logger=none")
        cfg.callbacks = {}
        moved.append(train(cfg))
        (Path(cfg.run_dir) / "result.json").unlink()
    assert moved[0] < 1
    assert moved[1] > 2


def test_early_stopping_ends_the_run(composed: Composed) -> None:
    cfg = composed(*QUICK, "callbacks=early_stopping", "callbacks.early_stopping.patience=1", "trainer.max_epochs=50")
    cfg.optimizer.lr = 0.0
    train(cfg)
    assert result(cfg)["epochs"] == 2


def test_a_plateau_lowers_the_learning_rate(composed: Composed) -> None:
    cfg = composed(*QUICK, "schedule=plateau", "schedule.patience=0", "trainer.max_epochs=3", "optimizer=sgd")
    cfg.optimizer.lr = 1e-12  # no validation is better than the one before
    train(cfg)
    saved = checkpoint(cfg)
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-14, rel=1e-9, abs=0)
    assert saved["lr_schedulers"][0]["observed"]["multiplier"] == pytest.approx(0.01)


def test_validations_further_apart_than_an_epoch_are_refused_with_the_remedy(composed: Composed) -> None:
    with pytest.raises(ConfigError, match=r"trainer: .*val_check_interval.*\(33\).*check_val_every_n_epoch=None"):
        train(composed(*QUICK, "trainer.val_check_interval=1000"))
