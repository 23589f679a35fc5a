"""What it costs that all processes stop together after a signal: Lightning's way, and ours.

    python scripts/bench_ddp_signals.py
    python scripts/bench_ddp_signals.py --turns 500 --processes 4

Real processes train a tiny MLP over gloo, on the CPU, in one fit whose epochs belong to three sides in turn.
`lightning` broadcasts at every step whether the first process has received a signal, and waits for the answer. `ours`
compares about once a second. `none` does nothing; a signal to one process would leave the others waiting for it. The
minimum over the epochs of each side is printed, and ratios of minima; an epoch is timed from its start to its end. Most
epochs of `ours` have no comparison in them, so what one takes is printed too, and how many there were.
"""

import argparse
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from stepsize import build
from stepsize.callbacks.interruption import Interruption
from stepsize.config import CONF, register

WORDS = ["model.widths=[64]", "data.batch_size=16", "trainer=ddp", "trainer.accelerator=cpu"]
WORDS += ["trainer.limit_val_batches=0", "name=bench", "run_dir=unused"]
SIDES = ("lightning", "ours", "none")


class Turns(L.Callback):
    """Gives each side an epoch in turn, and knows the seconds a step of each epoch, and those of each comparison."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        self.comparisons: list[float] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._loop: Any = trainer.fit_loop.epoch_loop
        self._interruption: Any
        (self._interruption,) = (c for c in trainer.callbacks if isinstance(c, Interruption))  # type: ignore[attr-defined]
        self._ours = self._interruption.on_step_end
        reduce = trainer.strategy.reduce

        def timed(*args: Any, **named: Any) -> Any:
            started = time.perf_counter()
            found = reduce(*args, **named)
            self.comparisons.append(time.perf_counter() - started)
            return found

        trainer.strategy.reduce = timed  # type: ignore[method-assign]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._side = SIDES[trainer.current_epoch % len(SIDES)]
        theirs = _TrainingEpochLoop._broadcast_sigterm_tensor.__get__(self._loop)
        self._loop._broadcast_sigterm_tensor = theirs if self._side == "lightning" else _nothing
        self._interruption.on_step_end = self._ours if self._side == "ours" else _nothing
        trainer.strategy.barrier()
        self._first, self._started = trainer.global_step, time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        seconds = time.perf_counter() - self._started
        self.seconds[self._side].append(seconds / (trainer.global_step - self._first))


def _nothing(*args: object) -> None:
    pass


def bench(processes: int, turns: int) -> None:
    """Print the table."""
    length = [f"trainer.devices={processes}", f"trainer.max_epochs={turns * len(SIDES)}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*WORDS, *length])
    cfg.logger = cfg.callbacks = None
    clock = Turns()
    with tempfile.TemporaryDirectory() as folder:
        trainer, task, data, _ = build.assemble(cfg, Path(folder))
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        trainer.fit(task, data)
    if not trainer.is_global_zero:
        return
    print(f"torch {torch.__version__}, lightning {L.__version__}, {processes} processes, {os.cpu_count()} cores")
    print(f"microseconds a step, minimum and median over {turns} epochs of {trainer.num_training_batches} steps")
    print(f"{'':10}{'minimum':>10}{'median':>10}{'/ none':>9}{'/ lightning':>13}")
    best = {side: min(seconds) for side, seconds in clock.seconds.items()}
    for side, seconds in best.items():
        ratios = f"{seconds / best['none']:9.2f}{seconds / best['lightning']:13.2f}"
        print(f"{side:10}{seconds * 1e6:10.0f}{median(clock.seconds[side]) * 1e6:10.0f}{ratios}")
    spent = [f"{figure(clock.comparisons) * 1e6:.0f}" for figure in (min, median)]
    steps = trainer.global_step // len(SIDES)
    print(f"ours: {len(clock.comparisons)} comparisons in {steps} steps, minimum {spent[0]} and median {spent[1]} each")


def main() -> None:
    """Run it; Lightning starts this script once more for each other process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--turns", type=int, default=200, help="epochs of each side")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    register()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    bench(args.processes, args.turns)


if __name__ == "__main__":
    main()
