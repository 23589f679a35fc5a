"""What several processes agree on as they train, without waiting for each other at every step."""

import time

import lightning as L
import torch

_PERIOD = 1.0  # seconds between two comparisons


class Agreement:
    """Has all processes act at the same step on what one of them alone may know, such as a signal or a clock.

    One process acts at once. Several would have to wait for each other at every step to do the same, so they compare
    about once a second: each comparison also settles after how many steps the next one is, by the slowest process.

    Args:
        trainer: of these processes.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self.trainer = trainer
        self._left = self._interval = 1
        self._since = 0.0

    def greatest(self, here: int) -> int:
        """The greatest value over all processes, 0 between comparisons; every process calls this at every step.

        Args:
            here: value in this process, at least 0.
        """
        if self.trainer.world_size == 1:
            return here
        self._left -= 1
        if self._left:
            return 0
        now = time.monotonic()
        step_seconds = (now - self._since) / self._interval if self._since else _PERIOD
        steps = min(2 * self._interval, max(1, int(_PERIOD / max(step_seconds, 1e-9))))
        told = torch.tensor([here, -steps], device=self.trainer.strategy.root_device)
        found = self.trainer.strategy.reduce(told, reduce_op="max")
        greatest, fewest = found.tolist()
        self._left = self._interval = -int(fewest)
        self._since = time.monotonic()
        return int(greatest)
