"""Run by two processes: each has a batch of its own that is not finite, and both leave out the same steps."""

import logging
import math
import warnings
from collections.abc import Iterator

import lightning as L
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from stepsize import build
from stepsize.callbacks.monitor import Monitor
from stepsize.config import CONF, register
from stepsize.param_groups import param_groups
from stepsize.schedules.constant import constant
from stepsize.task import Task

STEPS = 6


class Batches:
    """Random ones; the second of the first process and the fourth of the second have a value that is not finite."""

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rank = dist.get_rank()
        drawn = torch.Generator().manual_seed(rank)
        for number in range(STEPS):
            x, y = torch.randn(8, 4, generator=drawn), torch.randint(3, (8,), generator=drawn)
            x[0, 0] = math.nan if number == 1 + 2 * rank else x[0, 0]
            yield x, y


class LossAlone(Task):
    """A loss that is not finite in one process, but a gradient that is."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return super().training_step((x.nan_to_num(), y), batch_idx) + x.mean() * 0


class GradientAlone(Task):
    """A gradient that is not finite, of a loss that is."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = super().training_step((x.nan_to_num(), y), batch_idx)
        if x.isnan().any():
            loss.register_hook(lambda gradient: gradient * math.inf)
        return loss


def train(word: str, kind: type[Task]) -> tuple[int, Tensor]:
    """Steps that were left out, and all weights."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        make = build.optimizer(compose("train", [f"optimizer={word}"]), torch.device("cpu"))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    monitor = Monitor("skip")
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        log_every_n_steps=4,
        logger=False,
        callbacks=[monitor],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    groups = param_groups(network, make.keywords["lr"], make.keywords.get("weight_decay"))
    trainer.fit(kind(network, make, constant(), groups), Batches())
    return monitor.watch.skipped, torch.cat([p.detach().flatten() for p in network.parameters()])


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    register()
    for word in ("adamw", "lion"):
        for kind in (Task, LossAlone, GradientAlone):
            skipped, weights = train(word, kind)
            told = [torch.empty_like(weights) for _ in range(2)]
            dist.all_gather(told, weights)
            if dist.get_rank() == 0:
                alike = "equal" if torch.equal(*told) else "different"
                finite = "finite" if weights.isfinite().all() else "not finite"
                print(f"told {word} {kind.__name__} skipped {skipped} of {STEPS}, {alike}, {finite}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
