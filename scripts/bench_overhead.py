"""What the recipe costs over a hand-written loop, and typical Lightning defaults over both.

    python scripts/bench_overhead.py                 # all three workloads
    python scripts/bench_overhead.py mlp --repeats 9
    python scripts/bench_overhead.py mlp --parts     # what each part of the recipe adds
    python scripts/bench_overhead.py mlp --profile   # where the rest goes, function by function

Three sides train the same network on the same data with AdamW, in turn, in one process; the minimum over all epochs of
all turns is printed, and ratios of minima. `loop` does nothing but train, with the fused step. `recipe` is what
`python train.py` builds, with all its defaults: TensorBoard, checkpoint, progress bar, learning rates, gradient norm.
`typical` is a LightningModule as the tutorials write it: a DataLoader of samples, `self.log` and a torchmetric at every
step, TensorBoard, checkpoint, bar, LearningRateMonitor. Turns are short, for a shared machine's speed drifts.

`step` is the time from the start of an epoch to its validation, a step. `all` is the whole fit, a step: with its start
and end, validation and checkpoints, which the loop does not have. The data are loaded before.
"""

import argparse
import contextlib
import cProfile
import io
import itertools
import logging
import pstats
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from stepsize import build
from stepsize.config import CONF, register
from stepsize.task import Task

WORKLOADS = {
    "mlp": ["data=digits", "model=mlp", "model.widths=[64]", "data.batch_size=32", "trainer.max_epochs=20"],
    "mnist1d": ["experiment=mnist1d_convnet", "trainer.max_epochs=2"],
    "fashion_mnist": ["experiment=fashion_mnist_convnet", "trainer.max_epochs=1", "trainer.limit_train_batches=100"],
}
MAIN = ["name=bench", "run_dir=unused"]


class Clock(L.Callback):
    """Seconds a step of each epoch, without its validation."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started, self.first = time.perf_counter(), trainer.global_step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        seconds = time.perf_counter() - self.started
        self.epochs.append(seconds / (trainer.global_step - self.first))


class Typical(L.LightningModule):
    """A LightningModule as the tutorials write it."""

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.network(x)
        loss = F.cross_entropy(logits, y)
        self.train_accuracy(logits, y)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", self.train_accuracy, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self.network(x)
        self.val_accuracy(logits, y)
        self.log("val/loss", F.cross_entropy(logits, y))
        self.log("val/accuracy", self.val_accuracy)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters())
        scheduler = CosineAnnealingLR(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def composed(words: list[str]) -> DictConfig:
    """The config that the command line would compose."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*words, *MAIN])


def recipe(cfg: DictConfig, folder: Path) -> tuple[Any, Task, Any]:
    """What `python train.py` builds, its data loaded."""
    trainer, task, data, _ = build.assemble(cfg, folder)
    data.prepare_data()
    data.setup("fit")
    return trainer, task, data


def loop_seconds(cfg: DictConfig, folder: Path) -> float:
    """Seconds a step of a loop by hand over the recipe's own batches, in its fastest epoch."""
    _, task, data = recipe(cfg, folder)
    network, batches = task.network.train(), data.train_dataloader()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    epochs = []
    for epoch in range(cfg.trainer.max_epochs):
        batches.sampler.set_epoch(epoch)
        started = time.perf_counter()
        for steps, (x, y) in enumerate(itertools.islice(batches, cfg.trainer.limit_train_batches), 1):  # noqa: B007
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x), y, label_smoothing=task.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        epochs.append((time.perf_counter() - started) / steps)
    return min(epochs)


def fit_seconds(trainer: Any, module: L.LightningModule, *data: Any) -> tuple[float, float]:
    """Seconds a step, in the fastest epoch while training, and over the whole fit."""
    clock = Clock()
    trainer.callbacks.insert(0, clock)
    started = time.perf_counter()
    with silence():
        trainer.fit(module, *data)
    return min(clock.epochs), (time.perf_counter() - started) / trainer.global_step


def typical(cfg: DictConfig, folder: Path) -> tuple[L.Trainer, L.LightningModule, DataLoader[Any], DataLoader[Any]]:
    """Lightning with its usual defaults, over the same examples."""
    _, task, data = recipe(cfg, folder)
    sets = []
    for batches in (data.train_dataloader(), data.val_dataloader()):
        pairs = list(batches)
        sets.append(TensorDataset(torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])))
    train, val = sets
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=cfg.trainer.max_epochs,
        limit_train_batches=cfg.trainer.limit_train_batches,
        logger=TensorBoardLogger(folder),
        callbacks=[LearningRateMonitor("step"), ModelCheckpoint(monitor="val/loss")],
    )
    module = Typical(task.network, data.num_classes)
    size = cfg.data.batch_size
    return trainer, module, DataLoader(train, size, shuffle=True, drop_last=True), DataLoader(val, size)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing on the screen; the bars are drawn all the same, into memory."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def bench(name: str, repeats: int) -> None:
    """Print one workload's table."""
    cfg = composed(WORKLOADS[name])
    best: dict[str, list[float]] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            ours = fit_seconds(*recipe(cfg, Path(folder) / "recipe"))
            theirs = fit_seconds(*typical(cfg, Path(folder) / "typical"))
            loop = loop_seconds(cfg, Path(folder) / "loop")
        for side, seconds in (("loop", (loop, loop)), ("recipe", ours), ("typical", theirs)):
            best[side] = [min(pair) for pair in zip(best.get(side, seconds), seconds, strict=True)]
    print(f"\n{name}: microseconds a step, minimum over the epochs of {repeats} turns")
    print(f"{'':10}{'step':>10}{'/ loop':>9}{'/ typical':>11}{'all':>12}{'/ typical':>11}")
    for side, (step, whole) in best.items():
        ratios = step / best["loop"][0], step / best["typical"][0], whole / best["typical"][1]
        print(f"{side:10}{step * 1e6:10.0f}{ratios[0]:9.2f}{ratios[1]:11.2f}{whole * 1e6:12.0f}{ratios[2]:11.2f}")


def parts(name: str, turns: int) -> None:
    """Print what the recipe takes with one part less at a time."""
    sides: dict[str, list[str]] = {
        "everything": [],
        "less the progress bar": ["~callbacks.progress"],
        "less the checkpoint": ["~callbacks.checkpoint", "~callbacks.progress"],
        "less the monitor": ["~callbacks.checkpoint", "~callbacks.progress", "~callbacks.monitor"],
    }
    configs = {side: composed([*WORKLOADS[name], *words]) for side, words in sides.items()}
    best = dict.fromkeys(["loop", *sides], float("inf"))
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as folder:
            best["loop"] = min(best["loop"], loop_seconds(configs["everything"], Path(folder) / "loop"))
            for side, cfg in configs.items():
                best[side] = min(best[side], fit_seconds(*recipe(cfg, Path(folder) / side))[0])
    print(f"\n{name}: microseconds a step, minimum over the epochs of {turns} turns, each line with one part less")
    for side, seconds in best.items():
        print(f"{side:24}{seconds * 1e6:8.0f}")


def profile(name: str) -> None:
    """Print where the recipe's own time goes, by cumulative time."""
    cfg = composed(WORKLOADS[name])
    with tempfile.TemporaryDirectory() as folder:
        trainer, task, data = recipe(cfg, Path(folder))
        profiler = cProfile.Profile()
        with silence():
            profiler.runcall(trainer.fit, task, data)
        print(f"{trainer.global_step} steps")
    for order in ("cumulative", "tottime"):
        pstats.Stats(profiler).sort_stats(order).print_stats(45)


def main() -> None:
    """Run the workloads that were named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", choices=[*WORKLOADS, []], help="default: all")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each side")
    parser.add_argument("--parts", action="store_true", help="take the recipe apart instead")
    parser.add_argument("--profile", action="store_true", help="profile the recipe instead")
    args = parser.parse_args()
    register()
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    print(f"torch {torch.__version__}, lightning {L.__version__}, {torch.get_num_threads()} threads")
    for name in args.workloads or WORKLOADS:
        if args.profile:
            profile(name)
        elif args.parts:
            parts(name, args.repeats)
        else:
            bench(name, args.repeats)


if __name__ == "__main__":
    main()
