"""What only a GPU shows: `pytest -m gpu` where there is one."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from stepsize import build
from stepsize.callbacks.objective import Objective
from stepsize.callbacks.skipping import Skipping
from stepsize.optimizers import OPTIMIZERS
from stepsize.optimizers.counted_normal import BLOCK, LARGE
from stepsize.optimizers.perturbed_sgd import PerturbedSGD
from stepsize.run import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]
Composed = Callable[..., DictConfig]
GENTLE = {"muon": ["optimizer.ns_dtype=float32"]}  # what makes two devices comparable: products in one dtype


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


@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_draws_the_noise_that_a_cpu_draws(compiled: bool) -> None:
    moved = []
    for device in ("cpu", "cuda"):
        sizes = [LARGE + 1, 300, LARGE + BLOCK, 1, 7, 9]  # with and without a rest; the small ones are packed
        parameters = [nn.Parameter(torch.zeros(n, device=device)) for n in sizes]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        PerturbedSGD(parameters, radius=100.0, compiled=compiled and device == "cuda").step()
        moved.append(torch.cat([p.detach().cpu() for p in parameters]))
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-5, atol=float(1e-5 * moved[0].abs().max()))


def stepped(make: Any, device: str, **more: Any) -> list[Tensor]:
    """A small network's weights after some steps on fixed gradients, on the CPU."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape).to(device)) for shape in ((64, 96), (8, 4, 3, 3), (96,), (1,))]
    gradients = [[torch.randn(p.shape) for p in parameters] for _ in range(4)]
    optimizer = make(parameters, **more)

    for of_step in gradients:
        for p, g in zip(parameters, of_step, strict=True):
            p.grad = g.to(device)
        optimizer.step(lambda: None)
    return [p.detach().cpu() for p in parameters]


@pytest.mark.parametrize("word", [w for w, path in OPTIMIZERS.items() if path.startswith("stepsize.")])
def test_our_steps_on_a_gpu_are_those_on_a_cpu(composed: Composed, word: str) -> None:
    make = build.optimizer(composed(f"optimizer={word}", *GENTLE.get(word, [])), torch.device("cpu"))
    there, here = stepped(make, "cuda"), stepped(make, "cpu")
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


def test_a_fused_step_is_skipped_without_waiting_for_the_gpu() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)).cuda()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    skipping, trainer = Skipping(), L.Trainer(accelerator="gpu", devices=1, logger=False, enable_checkpointing=False)
    kept = []
    for number in range(3):
        x = torch.randn(4, 8, device="cuda") * (math.nan if number == 2 else 1.0)
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            skipping.begin_batch(network)
            loss = network(x).square().mean()
            skipping.see(loss)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.stack([p.grad.norm() for p in network.parameters()]).norm()
            skipping.veto(network, optimizer, skipping.judge(trainer, norm))
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        kept.append([v.clone() for v in (*network.state_dict().values(), *optimizer.state[network[0].weight].values())])
    assert all(map(torch.equal, kept[1], kept[2]))
    assert not torch.equal(kept[0][0], kept[1][0])
