"""Batches by tensor indexing, each process its share."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from stepsize.data.augment import Augmentation
from stepsize.data.errors import DataError
from stepsize.data.order import EpochOrder, Resumable

Batch: TypeAlias = tuple[Tensor, Tensor]

# Examples are gathered for several batches at once and handed out as slices: one indexing operation for the whole epoch
# of a small set, and no more than a CPU's cache holds for a large one.
CHUNK_BYTES = 2**20


def share(order: Tensor, batch_size: int, rank: int, world_size: int) -> list[Tensor]:
    """Cut `order` into global batches of `batch_size * world_size` and return this rank's part of each.

    Rank r has examples r * batch_size .. (r+1) * batch_size - 1 of every whole global batch, so that all ranks together
    see what one process with a `world_size` times larger batch sees. An incomplete last global batch is divided as
    evenly as it goes: every rank has the same number of parts, of which the last may be empty.
    """
    global_batch = batch_size * world_size
    whole = len(order) // global_batch
    parts = list(order[: whole * global_batch].view(whole, world_size, batch_size)[:, rank].unbind())
    rest = order[whole * global_batch :]
    return [*parts, rest.tensor_split(world_size)[rank]] if len(rest) else parts


def num_whole_batches(n: int, batch_size: int, world_size: int) -> int:
    """Return how many global batches n examples fill; raise DataError if they do not fill one."""
    global_batch = batch_size * world_size
    if n < global_batch:
        raise DataError(
            f"batch_size must be at most {n // world_size}, got {batch_size}: the training set has {n} examples and a"
            f" global batch {global_batch} ({batch_size} on each of {world_size} processes)"
        )
    return n // global_batch


class Batches(Resumable):
    """Batches (x, y) of one data set, in memory on one device.

    Given an `order`, these are training batches: shuffled anew in every epoch, augmented, and without the incomplete
    last global batch. Without it they are for evaluation: in the order of the data, each example exactly once over all
    ranks.

    Args:
        x: inputs, shape (n, ...).
        y: targets, shape (n, ...).
        batch_size: examples a batch on each process.
        rank: of this process, in [0, world_size).
        world_size: number of processes.
        order: of the training epochs.
        augmentations: applied one after another to the x of a batch; what they draw depends on seed, epoch, batch and
            rank alone.
        prepare: applied last to the x of a batch.

    Raises:
        DataError: the training set is smaller than one global batch.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        order: EpochOrder | None = None,
        augmentations: Sequence[Augmentation] = (),
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.x, self.y = x, y
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.order, self.augmentations, self.prepare = order, augmentations, prepare
        self.length = -(-len(x) // (batch_size * world_size))
        if order is not None:
            self.length = num_whole_batches(len(x), batch_size, world_size)
            # Lightning takes whatever has a `sampler` for shuffled, so there is none where the order is fixed.
            self.sampler = order

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        first = 0 if self.order is None else self.order.first_batch
        generator = torch.Generator(self.x.device)
        for batch, (x, y) in enumerate(self._gathered(first), first):
            if self.order is not None and self.augmentations:
                generator.manual_seed(self.order.seed_at(batch, self.rank))
                for augmentation in self.augmentations:
                    x = augmentation(x, generator)
            yield (x if self.prepare is None else self.prepare(x)), y

    def _gathered(self, first: int) -> Iterator[Batch]:
        n = len(self.x)
        order = torch.arange(n) if self.order is None else self.order.permutation(n)
        parts = share(order.to(self.x.device), self.batch_size, self.rank, self.world_size)[first : self.length]
        batch_bytes = self.batch_size * self.x[:1].nbytes
        chunk = max(1, CHUNK_BYTES // max(1, batch_bytes))
        for begin in range(0, len(parts), chunk):
            indices = parts[begin : begin + chunk]
            sizes = [len(part) for part in indices]
            index = torch.cat(indices)
            x = self.x.index_select(0, index).split_with_sizes(sizes)
            y = self.y.index_select(0, index).split_with_sizes(sizes)
            yield from zip(x, y, strict=True)
