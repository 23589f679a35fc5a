"""The order of a training epoch."""

from typing import Any

import torch
from torch import Tensor

from stepsize.data.seeds import mixed_seed


class EpochOrder:
    """What is random in a training epoch, as a function of (seed, epoch) and of nothing else.

    The global random state is neither read nor advanced, so the position (epoch, batch) is all that a checkpoint has to
    keep. Lightning finds this object as the `sampler` of the training batches and tells it the epoch.

    Args:
        seed: of the run.
        start: (epoch, batch) at which a resumed run goes on; the batches of that epoch before it are skipped.
    """

    def __init__(self, seed: int, start: tuple[int, int] = (0, 0)) -> None:
        self.seed = seed
        self.start = start
        self.epoch = start[0]

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, counted from 0."""
        self.epoch = epoch

    @property
    def first_batch(self) -> int:
        """The first batch of this epoch that is still to be seen."""
        epoch, batch = self.start
        return batch if self.epoch == epoch else 0

    def permutation(self, n: int) -> Tensor:
        """Return 0 .. n-1 in this epoch's order, on the CPU, shape (n,)."""
        return torch.randperm(n, generator=torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch)))

    def seed_at(self, *position: int | str) -> int:
        """Return the seed of a place within this epoch."""
        return mixed_seed(self.seed, self.epoch, *position)


class Resumable:
    """Batches that go on in the middle of an epoch.

    Lightning warns of unreliable results if batches cannot save a state. These have none to save: the data module saves
    the position, which Lightning does not lose even where it makes the batches before it reads the checkpoint.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: there is no state."""
