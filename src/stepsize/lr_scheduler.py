"""The one torch LRScheduler: it applies a schedule's multiplier to each group's own learning rate."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stepsize.schedules.observer import observer
from stepsize.schedules.schedule import Schedule


class ScheduledLR(LRScheduler):
    """Group g takes step t at lr_g · schedule(t, horizon), where lr_g is the lr it was made with.

    Nothing but the step is state, and what a metric-driven schedule has observed: a run that is resumed, or extended to
    a new horizon, follows the formula. The horizon is saved so that an extended run can say, or keep, what it was.

    Args:
        optimizer: its groups' lr are the peaks that the multiplier scales.
        schedule: multiplier as a function of (step, horizon).
        horizon: optimizer steps of the whole run; None where it has no finite length.
        keeps_horizon: whether a resumed run keeps the horizon that it began with; after it, the multiplier stays.
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, horizon: int | None, *, keeps_horizon: bool = False
    ) -> None:
        self.schedule = schedule
        self.horizon = self.horizon_before = horizon
        self.keeps_horizon = keeps_horizon
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Set every group's learning rate for the next optimizer step."""
        assert epoch is None, "the step is counted, never given"
        self._step_count += 1
        self.last_epoch += 1
        self._apply()

    def get_lr(self) -> list[Any]:
        """Each group's learning rate at the current step."""
        return self.at(self.last_epoch)

    def at(self, step: int) -> list[Any]:
        """Each group's learning rate at a step."""
        multiplier = self.schedule(step, self.horizon)
        return [lr * multiplier for lr in self.base_lrs]

    def observe(self, value: float) -> None:
        """Tell a metric-driven schedule the metric of one validation; it acts from the next step on."""
        watching = observer(self.schedule)
        if watching is not None:
            watching.observe(value)
            self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Plain data: the step, the peaks, the horizon, and what was observed."""
        watching = observer(self.schedule)
        observed = watching.state_dict() if watching is not None else None
        return {"step": self.last_epoch, "base_lrs": self.base_lrs, "horizon": self.horizon, "observed": observed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, by this schedule's formula; the optimizer has been restored."""
        self.last_epoch = state_dict["step"]
        self._step_count = self.last_epoch + 1
        self.base_lrs = state_dict["base_lrs"]
        self.horizon_before = state_dict["horizon"]
        if self.keeps_horizon:
            self.horizon = self.horizon_before
        for group in self.optimizer.param_groups:
            if "horizon" in group:  # of an optimizer that warms something up over the run
                group["horizon"] = self.horizon
        watching = observer(self.schedule)
        if watching is not None and state_dict["observed"] is not None:
            watching.load_state_dict(state_dict["observed"])
        self._apply()

    def _apply(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.at(self.last_epoch), strict=True):
            if hasattr(group["lr"], "fill_"):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
