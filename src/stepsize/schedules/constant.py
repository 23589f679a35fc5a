"""No schedule: the learning rate that was set, throughout."""

from stepsize.schedules.horizon import hold
from stepsize.schedules.schedule import Schedule


def constant() -> Schedule:
    """Leave every group's learning rate as it is.

        multiplier(t) = 1

    Step 0, the last step and every step after the horizon: 1. Works without a horizon.
    """

    def schedule(step: int, horizon: int | None) -> float:
        hold(step, horizon)
        return 1.0

    return schedule
