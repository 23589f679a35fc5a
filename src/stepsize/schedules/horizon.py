"""Where a step lies in its run: the clamp to the horizon, and the refusal of a missing one."""


class HorizonError(ValueError):
    """A schedule depends on where the run ends, and the run has no end."""

    def __init__(self, needs: str, instead: str) -> None:
        super().__init__(
            f"{needs}: set trainer.max_steps or trainer.max_epochs (max_steps if the dataset has no length), "
            f"or {instead}"
        )


def hold(step: int, horizon: int | None) -> int:
    """The step, held at the horizon once the run is past it; without a horizon, the step itself."""
    assert step >= 0, f"step must be at least 0, got {step}"
    assert horizon is None or horizon >= 0, f"horizon must be at least 0, got {horizon}"
    return step if horizon is None else min(step, horizon)


def require_horizon(horizon: int | None, word: str) -> int:
    """The horizon, or HorizonError where the run has none.

    Args:
        horizon: optimizer steps of the run, or None.
        word: the schedule that asks, as users type it.
    """
    if horizon is None:
        raise HorizonError(
            f"schedule={word} needs a finite run to know its end", "take schedule=constant, inverse_sqrt or plateau"
        )
    return horizon


def progress(step: float, length: float) -> float:
    """The share step / length that is done, in [0, 1].

    Step 0 is always the start, even of a length of 0: that is what a warmup over the whole run leaves to its schedule,
    and the peak the warmup climbs to is the schedule's start.
    """
    if step <= 0:
        return 0.0
    return 1.0 if step >= length else step / length
