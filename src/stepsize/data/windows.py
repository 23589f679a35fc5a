"""Windows of a text."""

from collections.abc import Iterator

import torch
from torch import Tensor

from stepsize.data.batches import Batch, num_whole_batches, share
from stepsize.data.order import EpochOrder, Resumable


class Windows(Resumable):
    """Batches (x, y) of windows of one text, both int64 of shape (B, T); y is what follows x, byte for byte.

    Given an `order`, these are training batches: each global batch is drawn at random from all windows of the text, by
    seed, epoch and batch alone, and every process takes its share of it. An epoch has as many windows as lie side by
    side in the text. Without it they are for evaluation: the windows side by side, each exactly once over all ranks; up
    to T-1 bytes at the end are left out.

    Args:
        text: uint8, shape (n,), n > context_length.
        context_length: T, bytes.
        batch_size: windows a batch on each process.
        rank: of this process, in [0, world_size).
        world_size: number of processes.
        order: of the training epochs.

    Raises:
        ValueError: the training text has fewer windows than one global batch.
    """

    def __init__(
        self,
        text: Tensor,
        context_length: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        order: EpochOrder | None = None,
    ) -> None:
        self.text, self.context_length = text, context_length
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.order = order
        self.num_windows = (len(text) - 1) // context_length
        self.length = -(-self.num_windows // (batch_size * world_size))
        if order is not None:
            self.length = num_whole_batches(self.num_windows, batch_size, world_size)
            # Lightning takes whatever has a `sampler` for shuffled, so there is none where the order is fixed.
            self.sampler = order

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        # one more byte than the context, a window at every position; a view, no copy
        windows = self.text.unfold(0, self.context_length + 1, 1)
        for starts in self._side_by_side() if self.order is None else self._drawn(self.order, len(windows)):
            window = windows[starts.to(self.text.device)]
            yield window[:, :-1].long(), window[:, 1:].long()

    def _side_by_side(self) -> Iterator[Tensor]:
        starts = torch.arange(self.num_windows) * self.context_length
        yield from share(starts, self.batch_size, self.rank, self.world_size)

    def _drawn(self, order: EpochOrder, num_starts: int) -> Iterator[Tensor]:
        generator = torch.Generator()
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for batch in range(order.first_batch, self.length):
            generator.manual_seed(order.seed_at(batch, "windows"))
            yield torch.randint(num_starts, (self.batch_size * self.world_size,), generator=generator)[mine]
