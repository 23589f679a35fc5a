import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as ServersAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from stepsize.loggers.tensorboard import TensorBoard
from stepsize.run import train

Composed = Callable[..., DictConfig]
WORDS = ("trainer.accelerator=cpu", "trainer.max_epochs=2", "trainer.log_every_n_steps=10", "optimizer.lr=0.01")


def read(cfg: DictConfig) -> EventAccumulator:
    events = EventAccumulator(str(Path(cfg.run_dir) / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return events


def curve(events: EventAccumulator, tag: str) -> dict[int, float]:
    return {e.step: e.value for e in events.Scalars(tag)}


def test_every_tag_of_the_recipe_is_there(composed: Composed) -> None:
    cfg = composed(*WORDS)
    train(cfg)
    tags = set(read(cfg).Tags()["scalars"])
    expected = {"train/loss", "val/loss", "test/loss", "val/accuracy", "test/accuracy", "lr/decay", "lr/no_decay"}
    assert tags == expected | {"optim/grad_norm", "optim/update_ratio", "schedule/multiplier"}


def test_the_x_axis_is_the_optimizer_step_with_accumulation_too(composed: Composed) -> None:
    cfg = composed(*WORDS, "trainer.accumulate_grad_batches=2", "data.batch_size=16")
    train(cfg)  # 67 batches an epoch are 34 steps
    events = read(cfg)
    assert list(curve(events, "train/loss")) == [1, 10, 20, 30, 40, 50, 60, 68]
    assert list(curve(events, "val/loss")) == [34, 68]


def test_the_learning_rate_is_that_of_the_step_it_stands_at(composed: Composed) -> None:
    cfg = composed(*WORDS, "schedule=linear")
    train(cfg)
    rates = curve(read(cfg), "lr/decay")
    # the 10th step, which is step 9 counted from 0, of 66
    assert rates[10] == pytest.approx(0.01 * (1 - 9 / 66), rel=1e-6)


def test_the_schedule_is_drawn_over_the_whole_run(composed: Composed) -> None:
    cfg = composed(*WORDS, "schedule=warmup_linear", "schedule.warmup_steps=6")
    train(cfg)
    multiplier = curve(read(cfg), "schedule/multiplier")
    assert list(multiplier) == list(range(1, 67))
    assert [multiplier[s] for s in (1, 6, 7, 37, 66)] == pytest.approx([1 / 6, 1, 1, 0.5, 1 / 60])


def test_the_training_loss_is_the_mean_since_the_last_time(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    from stepsize.task import Task

    losses: list[float] = []
    step = Task.training_step

    def training_step(self: Task, batch: Any, batch_idx: int) -> Any:
        loss = step(self, batch, batch_idx)
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(Task, "training_step", training_step)
    cfg = composed(*WORDS, "trainer.accumulate_grad_batches=2")
    train(cfg)
    logged = curve(read(cfg), "train/loss")
    assert logged[1] == pytest.approx(sum(losses[:2]) / 2, rel=1e-5)
    assert logged[10] == pytest.approx(sum(losses[2:20]) / 18, rel=1e-5)
    assert list(logged)[-1] == 34  # what is left after the last multiple of ten


def test_gradient_norm_and_update_ratio_are_those_of_the_step(
    composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[tuple[float, float]] = []
    step = torch.optim.SGD.step

    def norm(tensors: list[torch.Tensor]) -> float:
        return torch.cat([t.flatten() for t in tensors]).double().norm().item()

    def recorded(self: torch.optim.SGD, closure: Any = None) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"]]
        if len(parameters) == 1:  # the question whether the step can be fused
            return step(self, closure)
        before = [p.detach().clone() for p in parameters]
        loss = step(self, closure)
        moved = [p.detach() - b for p, b in zip(parameters, before, strict=True)]
        norms.append((norm([p.grad for p in parameters]), norm(moved) / norm(before)))
        return loss

    cfg = composed(*WORDS, "optimizer=momentum", "trainer.log_every_n_steps=1", "trainer.max_steps=5")
    monkeypatch.setattr(torch.optim.SGD, "step", recorded)
    train(cfg)
    events = read(cfg)
    logged = zip(curve(events, "optim/grad_norm").values(), curve(events, "optim/update_ratio").values(), strict=True)
    assert list(logged) == [pytest.approx(pair, rel=1e-4) for pair in norms]


def logged(folder: Path, *points: tuple[str, int, float], start: int = 0) -> None:
    """What a process leaves that logs these, going on from `start`."""
    logger = TensorBoard(str(folder))
    logger.go_on_from(start)
    for tag, step, value in points:
        logger.log_metrics({tag: value}, step)
    logger.finalize("success")


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Every point of a curve, in the order of reading."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(e.step, e.value) for e in events.Scalars(tag)]


def test_what_was_logged_beyond_the_step_that_a_run_goes_on_from_is_taken_back(tmp_path: Path) -> None:
    logged(tmp_path, *(("loss", step, 1.0) for step in (1, 2, 3, 4)))
    logged(tmp_path, *(("loss", step, 2.0) for step in (3, 4, 5)), start=2)
    assert points(tmp_path, "loss") == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_what_is_logged_again_at_the_step_itself_stands_once(tmp_path: Path) -> None:
    logged(tmp_path, ("train/loss", 2, 1.0), ("val/loss", 2, 0.5))
    logged(tmp_path, ("val/loss", 2, 0.5), ("test/loss", 2, 0.25), ("val/loss", 4, 0.25), start=2)
    assert points(tmp_path, "train/loss") == [(2, 1)]
    assert points(tmp_path, "val/loss") == [(2, 0.5), (4, 0.25)]
    assert points(tmp_path, "test/loss") == [(2, 0.25)]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    logged(tmp_path, ("loss", 1, 1.0), ("loss", 2, 1.0))
    logged(tmp_path, ("loss", 1, 2.0))
    assert points(tmp_path, "loss") == [(1, 2)]


def test_a_server_that_has_read_the_old_files_drops_what_is_taken_back(tmp_path: Path) -> None:
    logged(tmp_path, *(("loss", step, 1.0) for step in (1, 2, 3, 4)))
    server = ServersAccumulator(str(tmp_path / "tensorboard"))
    server.Reload()
    assert [e.step for e in server.Tensors("loss")] == [1, 2, 3, 4]
    logged(tmp_path, ("loss", 3, 2.0), start=2)
    server.Reload()
    assert [e.step for e in server.Tensors("loss")] == [1, 2, 3]


def test_all_that_was_logged_can_be_read_once_it_is_saved(tmp_path: Path) -> None:
    logger = TensorBoard(str(tmp_path))
    for step in range(1, 200):
        logger.log_metrics({"loss": 1.0}, step)
    logger.save()
    assert len(points(tmp_path, "loss")) == 199
    logger.finalize("success")


def test_the_row_of_hyperparameters_is_the_latest(tmp_path: Path) -> None:
    for schedule in ("cosine", "linear"):
        logger = TensorBoard(str(tmp_path))
        logger.go_on_from(0)
        logger.log_choices({"schedule": schedule}, ["val/loss"])
        logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()  # of a tag that comes twice, readers heed the first
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert HParamsPluginData.FromString(content).session_start_info.hparams["schedule"].string_value == "linear"


def test_only_process_0_touches_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged(tmp_path, ("loss", 1, 1.0), ("loss", 2, 1.0))
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logged(tmp_path, ("loss", 1, 2.0), start=1)
    assert points(tmp_path, "loss") == [(1, 1), (2, 1)]


@pytest.mark.slow
def test_the_hparams_page_compares_runs_by_optimizer_schedule_lr_and_accuracy(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    words = ("trainer.max_epochs=1", "optimizer.lr=0.02")
    assert command("optimizer=momentum", "schedule=one_cycle", *words).returncode == 0
    assert command("optimizer=adamw", "schedule=cosine", *words).returncode == 0
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", "runs", "--port", "0", "--load_fast=false"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        url = next(m[1] for line in server.stderr if (m := re.search(r"(http://\S+)", line)))
        groups = session_groups(url)
    finally:
        server.terminate()
        server.wait()
        server.stderr.close()
    rows = {(g["hparams"]["optimizer"], g["hparams"]["schedule"], g["hparams"]["lr"]) for g in groups}
    assert rows == {("momentum", "one_cycle", 0.02), ("adamw", "cosine", 0.02)}
    for group in groups:
        values = {m["name"]["tag"]: m["value"] for m in group["metricValues"]}
        assert 0.2 < values["val/accuracy"] <= 1


def session_groups(url: str) -> list[dict[str, Any]]:
    """What the HPARAMS page asks the server for, once it has read the runs."""
    asked = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"metric": {"tag": "val/accuracy", "group": ""}}],
        "startIndex": 0,
        "sliceSize": 10,
    }
    request = urllib.request.Request(
        url.rstrip("/") + "/data/plugin/hparams/session_groups",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(60):
        with urllib.request.urlopen(request, timeout=30) as answer:
            groups = json.load(answer).get("sessionGroups", [])
        if len(groups) == 2 and all(g["metricValues"] for g in groups):
            return groups
    raise AssertionError(f"TensorBoard shows {groups}")
