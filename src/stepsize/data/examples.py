"""Batches of examples that are read one by one, by worker processes where there are any."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from stepsize.data.batches import num_whole_batches, share
from stepsize.data.order import EpochOrder, Resumable
from stepsize.data.seeds import mixed_seed
from stepsize.data.worker_signals import heed_the_parent_alone

Collate = Callable[[list[Any]], Any]


class Indexed(Protocol):
    """A number of examples, each read by its index: torch's map-style data sets, and lists."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Examples(Resumable):
    """Batches of a data set that is read example by example, by torch's DataLoader.

    Given an `order`, these are training batches: shuffled anew in every epoch, and without the incomplete last global
    batch. Without it they are for evaluation: in the order of the data, each example exactly once over all ranks.

    Before an example is read, Python's `random`, NumPy's global generator and torch's on the CPU are seeded by (seed,
    epoch, index), in evaluation by the index. So random augmentation inside the data set or `collate_fn` is neither a
    matter of the number of workers nor of where a run was resumed, and the generators of the run itself stay untouched.

    It holds a DataLoader and is none, so that Lightning does not shard it a second time. Its workers live as long as a
    fit, as starting them anew in every epoch and every validation takes longer than keeping them.

    Args:
        dataset: what is read; with workers it is copied into each of them.
        batch_size: examples a batch on each process.
        rank: of this process, in [0, world_size).
        world_size: number of processes.
        order: of the training epochs.
        num_workers: processes that read ahead; 0 reads in this one.
        collate_fn: makes a batch of a list of examples.
        pin_memory: copy batches into memory from which a GPU reads while it computes.

    Raises:
        DataError: the training set is smaller than one global batch.
        TypeError: the data set has no indices.
        ValueError: num_workers is negative.
    """

    def __init__(
        self,
        dataset: Indexed,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        order: EpochOrder | None = None,
        num_workers: int = 0,
        collate_fn: Collate = default_collate,
        pin_memory: bool = False,
    ) -> None:
        if isinstance(dataset, IterableDataset):
            raise TypeError(f"dataset must be read by index, but {type(dataset).__name__} can only be iterated over")
        self.loader = DataLoader(
            _Seeded(dataset, collate_fn),
            batch_size=None,  # what the sampler gives is a batch already
            sampler=_Places(len(dataset), batch_size, rank, world_size, order),
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            worker_init_fn=heed_the_parent_alone,
            # In a trial of a sweep the default is a fork server, whose workers would import everything once more.
            multiprocessing_context="fork" if num_workers > 0 and sys.platform == "linux" else None,
            generator=torch.Generator(),  # else each iterator would draw from the global one
            persistent_workers=num_workers > 0,
        )
        if order is not None:
            # Lightning takes whatever has a `sampler` for shuffled, so there is none where the order is fixed.
            self.sampler = order

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # A generator, so that the workers begin when the first batch is asked for, and the epoch is known.
        yield from self.loader

    @property
    def _iterator(self) -> Any:
        # Lightning looks for this name of a DataLoader's when a fit is over, ends its workers, and sets it to None.
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        self.loader._iterator = iterator


class _Places:
    """This rank's part of each batch of an epoch: pairs (index, seed of what is random in that example)."""

    def __init__(self, n: int, batch_size: int, rank: int, world_size: int, order: EpochOrder | None) -> None:
        self.n, self.batch_size, self.rank, self.world_size, self.order = n, batch_size, rank, world_size, order
        self.length = -(-n // (batch_size * world_size))
        if order is not None:
            self.length = num_whole_batches(n, batch_size, world_size)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, first = torch.arange(self.n), 0
        seed_at = mixed_seed
        if self.order is not None:
            order, first, seed_at = self.order.permutation(self.n), self.order.first_batch, self.order.seed_at
        for part in share(order, self.batch_size, self.rank, self.world_size)[first : self.length]:
            yield [(index, seed_at("example", index)) for index in part.tolist()]


class _Seeded(Dataset[Any]):
    """Batches by their places: each example read after the global generators have got its seed."""

    def __init__(self, examples: Indexed, collate_fn: Collate) -> None:
        self.examples, self.collate_fn = examples, collate_fn

    def __getitem__(self, places: list[tuple[int, int]]) -> Any:
        with _generators_put_back():
            if places:
                return self.collate_fn([self._read(*place) for place in places])
            # A rank without examples in the last batch still needs to know what a batch looks like.
            return tree_map_only(Tensor, lambda x: x[:0], self.collate_fn([self._read(0, seed=0)]))

    def _read(self, index: int, seed: int) -> Any:
        # Three generators of one algorithm, the Mersenne Twister: the words in another order for NumPy, or it would
        # draw the same numbers as Python. torch takes the low word alone, and takes it in another way than both.
        random.seed(seed)
        np.random.seed([seed >> 32, seed % 2**32])
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPU's too
        return self.examples[index]


@contextmanager
def _generators_put_back() -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)


def _as_it_is(batch: Any) -> Any:
    return batch
