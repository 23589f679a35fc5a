"""Text as bytes."""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from stepsize.data.corpus import corpus_file
from stepsize.data.errors import DataError
from stepsize.data.module import DataModule
from stepsize.data.order import EpochOrder
from stepsize.data.splits import check_fractions
from stepsize.data.windows import Windows

# A larger text stays in the file, memory-mapped, and its batches are sent to an accelerator one by one.
DEVICE_BYTES = 2**30


class Text(DataModule):
    """The bytes of any text, one token each; by default the sources of Python's standard library, about 12 MB.

    The text is divided by position: first training, then validation, then test.

    Args:
        batch_size: windows a batch on each process.
        context_length: bytes a window.
        path: a file, or a folder of text files; None is the standard library.
        val_fraction: part of the text for validation, in (0, 1).
        test_fraction: part of the text for the test, in (0, 1).
        seed: of the windows drawn for training.
        root: the folder of all data sets; the text of a folder is joined to one file in `root/text`.

    Raises:
        ValueError: an argument is out of its range.
        DataError: while loading, where there is no text, or not enough for one window in each part.
    """

    kind: ClassVar[Literal["values", "tokens"]] = "tokens"
    metrics: ClassVar[tuple[str, ...]] = ("perplexity", "bits_per_byte")
    num_classes = 256

    def __init__(
        self,
        batch_size: int = 64,
        context_length: int = 256,
        path: str | None = None,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        seed: int = 0,
        root: str = "data",
    ) -> None:
        super().__init__(batch_size, seed)
        if context_length < 1:
            raise ValueError(f"context_length must be at least 1, got {context_length}")
        check_fractions(val_fraction, test_fraction)
        self.context_length = context_length
        self.input_shape = (context_length,)
        self.path = path
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.cache = Path(root) / "text"

    def prepare_data(self) -> None:
        """Join the text of a folder to one file, once."""
        corpus_file(self.path, self.cache)

    def load(self, device: torch.device) -> None:
        """Map the text into memory, and copy it to an accelerator if it is small."""
        file = corpus_file(self.path, self.cache)
        # copy-on-write: a tensor over memory that cannot be written is warned about
        text = torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="c"))
        if device.type != "cpu" and len(text) <= DEVICE_BYTES:
            text = text.to(device)
        num_val, num_test = round(len(text) * self.val_fraction), round(len(text) * self.test_fraction)
        self.train, self.val, self.test = text.split_with_sizes([len(text) - num_val - num_test, num_val, num_test])
        for name, part in (("training", self.train), ("validation", self.val), ("test", self.test)):
            if len(part) <= self.context_length:
                raise DataError(
                    f"the {name} part of {file} has {len(part)} bytes and one window needs {self.context_length + 1}:"
                    " give more text or a shorter context_length"
                )

    def train_dataloader(self) -> Windows:
        """Return the training batches."""
        return self._windows(self.train, self.training_order())

    def val_dataloader(self) -> Windows:
        """Return the validation batches."""
        return self._windows(self.val)

    def test_dataloader(self) -> Windows:
        """Return the test batches."""
        return self._windows(self.test)

    def _windows(self, text: Tensor, order: EpochOrder | None = None) -> Windows:
        return Windows(text, self.context_length, self.batch_size, self.rank, self.world_size, order)
