"""Validation, checkpoints and the test see the weights that an optimizer averages, training those that it trains."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.optim import Optimizer

from stepsize import batch_norm

# Torch's running statistics, with their momentum m = 0.1, have the variance of a mean over (2 - m) / m = 19 batches.
BATCHES = 20
# A place in the order of the training data that no epoch takes, and at which no run is resumed.
NO_EPOCH = -1


def averages(optimizer: Callable[..., Optimizer]) -> bool:
    """Whether a class of optimizers has an average to evaluate: `eval()` puts it into the parameters, `train()` out."""
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


class AveragedWeights(L.Callback):
    """Puts the average into the network for each validation and until the next training batch, and at the end.

    A checkpoint of a validation is written in between: it holds the average, in an optimizer that says so, and a
    resumed run begins by asking that optimizer to train. Where one is written at another moment, the average is put in
    for as long as it is copied, and BatchNorm's statistics stay those of training.

    BatchNorm has gathered its running statistics at other weights. So they are measured at the average, over 20 batches
    of training examples, the same at every validation: their order is apart from that of training, and the global
    random state is left as it was.
    """

    def __init__(self) -> None:
        self._trains = False  # whether a batch has begun since the average was put in
        self._is_measured = False  # whether BatchNorm's statistics are those of the average that is to be evaluated

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on training; the optimizer knows by its own state whether anything is to be done."""
        _train(trainer)
        self._trains, self._is_measured = True, False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the average, unless it is a checkpoint that is evaluated, or a check before training."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._average(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the network, where no validation has."""
        self._average(trainer, pl_module)

    def write_average(self, trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
        """Replace what a checkpoint says of weights and optimizer by what it would say after a validation."""
        if not self._trains:
            return
        _eval(trainer)
        checkpoint["state_dict"] = deepcopy(trainer.strategy.lightning_module_state_dict())
        if "optimizer_states" in checkpoint:  # else it is one of the weights alone
            saved = [trainer.strategy.optimizer_state(optimizer) for optimizer in trainer.optimizers]
            checkpoint["optimizer_states"] = [_apart(state) for state in saved]
        _train(trainer)

    def _average(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _eval(trainer)
        if not self._is_measured and batch_norm.running(pl_module):
            _measure(trainer, pl_module)
        self._trains, self._is_measured = False, True


def _apart(saved: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state dict that keeps its entries when the optimizer drops some of its own."""
    return {**saved, "state": {key: dict(entries) for key, entries in saved["state"].items()}}


def _eval(trainer: L.Trainer) -> None:
    for optimizer in trainer.optimizers:
        optimizer.eval()  # type: ignore[attr-defined]


def _train(trainer: L.Trainer) -> None:
    for optimizer in trainer.optimizers:
        optimizer.train()  # type: ignore[attr-defined]


@torch.no_grad()
def _measure(trainer: L.Trainer, network: nn.Module) -> None:
    """Give BatchNorm the statistics of training examples at the present weights, over all processes."""
    with isolate_rng(), batch_norm.measured_anew(network), trainer.precision_plugin.forward_context():
        # Loaders of their own: a pass over the trainer's would begin where a resumed run does.
        loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        if hasattr(loader, "sampler") and hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(NO_EPOCH)
        for batch in islice(loader, int(min(BATCHES, trainer.num_training_batches))):
            x, *_ = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
            network(x)
    if trainer.world_size > 1:
        for norm in batch_norm.running(network):
            for statistic in (norm.running_mean, norm.running_var):
                assert statistic is not None
                statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))
