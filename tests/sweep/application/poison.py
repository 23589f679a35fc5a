"""A callback for a test: gradients that are not finite, in the trials with a high learning rate."""

import math

import lightning as L


class Poison(L.Callback):
    """Args:
    first_step: from which on.
    above_lr: of the trials that it spoils; below 1.
    """

    def __init__(self, first_step: int, above_lr: float) -> None:
        self.first_step, self.above_lr = first_step, above_lr

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        if trainer.global_step >= self.first_step and self.above_lr < lr < 1:
            next(pl_module.parameters()).grad.view(-1)[0] = math.inf
