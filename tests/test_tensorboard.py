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
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
