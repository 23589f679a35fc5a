"""Data sets of labelled examples."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stepsize.data.augment import Augmentation
from stepsize.data.batches import Batch, Batches
from stepsize.data.module import DataModule
from stepsize.data.normalize import Normalize

# Evaluation keeps no activations for a backward pass, so larger batches fit where the training batches do.
EVALUATION_FACTOR = 4


class Labelled(DataModule):
    """Examples with one class each: x float32 of shape (B, *input_shape), y int64 of shape (B,).

    Args:
        batch_size: examples a batch on each process.
        seed: of the order and of the augmentation.
        augmentations: of the training examples, as they are stored.
    """

    kind: ClassVar[Literal["values", "tokens"]] = "values"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    # Of each channel, in units of 255, where the pixels are kept as bytes: a quarter of the memory, and faster.
    mean: ClassVar[tuple[float, ...]] = ()
    std: ClassVar[tuple[float, ...]] = ()

    def __init__(self, batch_size: int, seed: int, augmentations: Sequence[Augmentation] = ()) -> None:
        super().__init__(batch_size, seed)
        self.augmentations = augmentations
        self.prepare: Callable[[Tensor], Tensor] | None = None

    @abstractmethod
    def read(self) -> tuple[Batch, Batch, Batch]:
        """Return all examples (x, y) for training, for validation and for the test, on the CPU."""

    def load(self, device: torch.device) -> None:
        """Read the examples and move them to a device."""
        self.train, self.val, self.test = ((x.to(device), y.to(device)) for x, y in self.read())
        if self.mean:
            self.prepare = Normalize(self.mean, self.std, device)

    def train_dataloader(self) -> Batches:
        """Return the training batches."""
        order = self.training_order()
        return Batches(
            *self.train, self.batch_size, self.rank, self.world_size, order, self.augmentations, self.prepare
        )

    def val_dataloader(self) -> Batches:
        """Return the validation batches."""
        return self._evaluation(self.val)

    def test_dataloader(self) -> Batches:
        """Return the test batches."""
        return self._evaluation(self.test)

    def _evaluation(self, examples: Batch) -> Batches:
        return Batches(*examples, EVALUATION_FACTOR * self.batch_size, self.rank, self.world_size, prepare=self.prepare)
