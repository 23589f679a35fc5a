"""An optimizer step that is not taken, where its loss or gradient is not finite."""

import math

import lightning as L
import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer


class StepSkippedError(Exception):
    """Leaves an optimizer's `step` after the evaluation, before anything has changed."""


class Skipping:
    """Leaves out a step, with all batches that were accumulated for it, in all processes alike.

    Weights, the optimizer's state and the network's buffers (BatchNorm's statistics) are then as if those batches had
    not been. Not undone: the random numbers they drew, their place in the order of the data, and the step's in the
    schedule, in `max_steps` and in the log.

    Torch's fused steps are told on the device what to do. For every other optimizer, and for the first step, the device
    is waited for at each step. Several processes exchange a number at each.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []  # of the step to come
        self._buffers: list[Tensor] = []  # as they were before it
        self._has_stepped = False

    def begin_batch(self, module: nn.Module) -> None:
        """Keep the buffers as they are before the first batch of a step."""
        if not self._losses:
            self._buffers = [b.clone() for b in module.buffers()]

    def see(self, loss: Tensor) -> None:
        """Take a batch's loss into account."""
        self._losses.append(loss.detach())

    @torch.no_grad()
    def judge(self, trainer: L.Trainer, norm: Tensor) -> Tensor:
        """The norm of a step's gradient; nan where a process has a loss or a gradient that is not finite."""
        broken = torch.stack([*self._losses, norm]).isfinite().all().logical_not().float()
        self._losses = []
        if trainer.world_size > 1:  # Lightning's own reduction waits for the device
            distributed.all_reduce(broken, op=distributed.ReduceOp.MAX)
        return norm.masked_fill(broken > 0, math.nan)

    @torch.no_grad()
    def veto(self, module: nn.Module, optimizer: Optimizer, judged: Tensor) -> None:
        """Have the step not taken where it was judged so.

        Args:
            module: its buffers are put back.
            optimizer: is about to take the step.
            judged: what `judge` returned.

        Raises:
            StepSkippedError: the step is not to be taken, and the optimizer cannot be told.
        """
        broken = ~judged.isfinite()
        for buffer, before in zip(module.buffers(), self._buffers, strict=True):
            buffer.copy_(torch.where(broken, before, buffer))
        # Torch's protocol with its loss scaler. A fused SGD that is told so at its first step begins with a momentum of
        # uninitialized memory, so that one is never told.
        if self._has_stepped and getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = broken.float()  # type: ignore[attr-defined]
        elif broken:
            raise StepSkippedError
        self._has_stepped = True

    def end(self, optimizer: Optimizer) -> None:
        """Leave nothing behind that would rule a later step."""
        vars(optimizer).pop("found_inf", None)
