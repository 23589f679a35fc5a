"""What only a GPU shows: `pytest -m gpu` where there is one."""

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from omegaconf import DictConfig

from stepsize import build
from stepsize.callbacks.objective import Objective
from stepsize.run import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]
Composed = Callable[..., DictConfig]


def test_a_gpu_trains_in_bf16_and_is_named_in_the_result(composed: Composed) -> None:
    cfg = composed("trainer=gpu", "trainer.max_epochs=5", "optimizer.lr=0.01", "trainer.gradient_clip_val=1")
    assert train(cfg) < 0.3
    assert json.loads((Path(cfg.run_dir) / "result.json").read_text())["device"] == "cuda:0"


def test_the_step_is_fused_and_the_precision_bf16_by_default(composed: Composed, tmp_path: Path) -> None:
    cfg = composed()
    trainer = build.trainer(cfg, tmp_path, Objective("val/loss", "min"))
    assert trainer.precision == "bf16-mixed"
    assert build.optimizer(cfg, trainer.strategy.root_device).keywords["fused"] is True


def test_batches_are_on_the_gpu_before_they_are_asked_for(composed: Composed, tmp_path: Path) -> None:
    cfg = composed("data=mnist1d", "data.max_shift=2", "model=convnet", "trainer.max_epochs=1", "logger=none")
    devices = set()

    class Watch(L.Callback):
        def on_before_zero_grad(self, *args: object) -> None:
            devices.add(data.train[0].device.type)

    trainer = build.trainer(cfg, tmp_path, Objective("val/loss", "min"))
    trainer.callbacks.append(Watch())
    data = build.data(cfg)
    trainer.fit(build.task(cfg, data, build.optimizer(cfg, trainer.strategy.root_device)), data)
    assert devices == {"cuda"}
