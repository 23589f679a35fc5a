"""MNIST-1D, generated on the spot."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from stepsize.data.augment import random_shift
from stepsize.data.batches import Batch
from stepsize.data.labelled import Labelled
from stepsize.data.splits import check_val_size, random_split

NUM_TRAIN = 4000


@contextmanager
def _global_random_state_kept() -> Iterator[None]:
    """Give Python and numpy their random states back: the generator of the data set seeds both."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


class MNIST1D(Labelled):
    """5000 one-dimensional digits of 40 samples in 10 classes, 1000 of them for the test; nothing is downloaded.

    S. Greydanus and D. Kobak, Scaling Down Deep Learning with MNIST-1D, 2020, https://arxiv.org/abs/2011.14439. The
    generator's own arguments give the published data set, to the last digits of a float64. It comes with mean 0 and
    standard deviation 1 and is left so.

    Args:
        batch_size: examples a batch on each process.
        val_size: how many of the 4000 training examples are kept for validation.
        max_shift: samples by which a training signal may be rolled in each direction; 0 leaves it where it is.
        seed: of the order and of the augmentation.
        split_seed: of the division into training and validation.
    """

    input_shape = (1, 40)
    num_classes = 10

    def __init__(
        self, batch_size: int = 100, val_size: int = 500, max_shift: int = 0, seed: int = 0, split_seed: int = 0
    ) -> None:
        if max_shift < 0:
            raise ValueError(f"max_shift must be at least 0, got {max_shift}")
        super().__init__(batch_size, seed, [partial(random_shift, max_shift=max_shift)] if max_shift else [])
        check_val_size(val_size, NUM_TRAIN)
        self.val_size, self.split_seed = val_size, split_seed

    def read(self) -> tuple[Batch, Batch, Batch]:
        """Return the examples for training, validation and test."""
        from mnist1d.data import make_dataset  # imported here: it brings Matplotlib with it

        with _global_random_state_kept():
            data = make_dataset()
        x, x_test = (torch.from_numpy(data[key]).float().view(-1, *self.input_shape) for key in ("x", "x_test"))
        y, y_test = (torch.from_numpy(data[key]).long() for key in ("y", "y_test"))
        train, val = random_split((len(x) - self.val_size, self.val_size), self.split_seed)
        return (x[train], y[train]), (x[val], y[val]), (x_test, y_test)
