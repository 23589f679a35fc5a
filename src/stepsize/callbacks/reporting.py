"""Tells a sweep how a run goes, and ends it where the sweep says that others do better."""

from itertools import islice

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from stepsize.callbacks.objective import Objective
from stepsize.trial import Trial


class Reporting(L.Callback):
    """Reports the objective's metric after every validation; process 0 asks whether to stop, and all stop.

    Args:
        trial: reports go there.
        objective: has looked at each validation before this callback does.
    """

    def __init__(self, trial: Trial, objective: Objective) -> None:
        self.trial = trial
        self.objective = objective

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the network before its first step, where the sweep does not know that value yet."""
        if trainer.global_step > 0 or not trainer.strategy.broadcast(self.trial.wants_start):
            return
        pl_module.eval()
        with isolate_rng(), torch.no_grad(), trainer.precision_plugin.val_step_context():
            batches = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
            limit = trainer.limit_val_batches
            wanted = limit if isinstance(limit, int) else int(limit * len(batches))
            for index, batch in enumerate(islice(batches, wanted)):
                pl_module.validation_step(trainer.strategy.batch_to_device(batch), index)
            measured = pl_module.take_metrics("val")  # type: ignore[operator]
        pl_module.train()
        self.trial.report_start(measured[self.objective.metric])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report, and stop everywhere if that is the answer."""
        if trainer.sanity_checking or self.objective.metric not in self.objective.last:
            return
        stop = self.trial.report(trainer.global_step, self.objective.last[self.objective.metric])
        if trainer.strategy.broadcast(stop):
            self.objective.pruned_at = trainer.global_step
            trainer.should_stop = True
