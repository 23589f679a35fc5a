"""What every data module has in common."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch.utils.data import default_collate

from stepsize.data.batches import Batch
from stepsize.data.examples import Collate, Examples, Indexed
from stepsize.data.order import EpochOrder


class DataModule(L.LightningDataModule, ABC):
    """Data in memory on the device that trains, or, where `loader` makes the batches, read example by example.

    What a network has to know of the data is known before anything is loaded: `kind` (of the inputs: float "values" or
    int64 "tokens"), `input_shape` (without the batch), `num_classes` and `metrics` (the names of what is measured
    beside the loss).

    The order of the examples is a function of (seed, epoch), so the position in it is all the state there is. It is
    saved with a checkpoint, also in the middle of an epoch, and a resumed run sees the batches that it would have seen.

    Args:
        batch_size: examples a batch on each process.
        seed: of the order and of the augmentation.

    Raises:
        ValueError: batch_size is below 1.
    """

    kind: ClassVar[Literal["values", "tokens"]]
    metrics: ClassVar[tuple[str, ...]]
    input_shape: tuple[int, ...]
    num_classes: int

    def __init__(self, batch_size: int, seed: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = batch_size
        self.seed = seed
        self.position = (0, 0)
        self._is_loaded = False

    @abstractmethod
    def load(self, device: torch.device) -> None:
        """Read the data into tensors on a device, or open the data sets that `loader` is to read."""

    def setup(self, stage: str) -> None:
        """Load once, on the device of the trainer; without a trainer, on the CPU."""
        if stage == "fit":
            # A new fit begins at the beginning. Lightning restores a checkpoint's position after this.
            self.position = (0, 0)
        if not self._is_loaded:
            self.load(torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device)
            self._is_loaded = True

    @property
    def rank(self) -> int:
        """The place of this process among all, from 0."""
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return 1 if self.trainer is None else self.trainer.world_size

    def training_order(self) -> EpochOrder | None:
        """Return the order of the training epochs; None, a fixed one, where the trainer overfits a few batches."""
        # Lightning sets this attribute of the trainer without declaring it.
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            return None
        return EpochOrder(self.seed, self.position)

    def loader(
        self,
        dataset: Indexed,
        order: EpochOrder | None = None,
        num_workers: int = 0,
        collate_fn: Collate = default_collate,
    ) -> Examples:
        """Return this process's batches of data that do not fit in memory.

        Args:
            dataset: read by index, such as a torch Dataset that has a length.
            order: `self.training_order()` for training; for evaluation None.
            num_workers: processes that read ahead; 0 reads in this one.
            collate_fn: makes a batch of a list of examples.
        """
        # The workers' batches alone: in one process, copying into pinned memory is work that delays the step.
        pin_memory = num_workers > 0 and self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return Examples(
            dataset, self.batch_size, self.rank, self.world_size, order, num_workers, collate_fn, pin_memory
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Return the batch itself where it is on the device already."""
        x, y = batch
        if x.device == device:
            return batch
        return x.to(device, non_blocking=True), y.to(device, non_blocking=True)

    def on_exception(self, exception: BaseException) -> None:
        """End the workers that read for the training: Lightning leaves them where it is a validation that fails."""
        if self.trainer is not None:
            self.trainer.fit_loop.teardown()

    def state_dict(self) -> dict[str, Any]:
        """Return the position: the epoch, the batch of it that comes next, both from 0, and the number of processes.

        At the end of an epoch that batch is the one after its last.
        """
        if self.trainer is None:
            return {"position": list(self.position), "world_size": self.world_size}
        loop = self.trainer.fit_loop
        epoch = max(loop.epoch_progress.current.ready - 1, 0)
        return {"position": [epoch, loop.epoch_loop.batch_progress.current.ready], "world_size": self.world_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved position; the training batches made after this start there.

        Where the number of processes is another, no example is seen twice in the epoch.
        """
        epoch, batch = state_dict["position"]
        before = state_dict.get("world_size", self.world_size)
        self.position = (epoch, -(-batch * before // self.world_size))
