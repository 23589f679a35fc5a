"""The digits that ship inside scikit-learn."""

import torch

from stepsize.data.augment import image_augmentations
from stepsize.data.batches import Batch
from stepsize.data.labelled import Labelled
from stepsize.data.splits import check_fractions, random_split

# Of the pixels, in units of their largest value 16, computed over all 1797 images, as the training part depends on the
# split.
MEAN = 0.30526028624095713
STD = 0.3760492217920148


class Digits(Labelled):
    """1797 handwritten digits of 8x8 pixels in 10 classes; nothing is downloaded.

    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (its test set), UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49.

    Args:
        batch_size: examples a batch on each process.
        val_fraction: part of the 1797 for validation, in (0, 1).
        test_fraction: part of the 1797 for the test, in (0, 1).
        crop_padding: pixels by which a training image may move in each direction; 0 leaves it where it is.
        seed: of the order and of the augmentation.
        split_seed: of the division into training, validation and test.
    """

    input_shape = (1, 8, 8)
    num_classes = 10

    def __init__(
        self,
        batch_size: int = 32,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        crop_padding: int = 0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, image_augmentations(crop_padding, flip_probability=0.0, fill=-MEAN / STD))
        check_fractions(val_fraction, test_fraction)
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.split_seed = split_seed

    def read(self) -> tuple[Batch, Batch, Batch]:
        """Return the examples for training, validation and test."""
        from sklearn.datasets import load_digits  # imported here: it takes longer than reading the digits

        digits = load_digits()
        x = ((torch.from_numpy(digits.images) / 16 - MEAN) / STD).float().view(-1, *self.input_shape)
        y = torch.from_numpy(digits.target).long()
        num_val, num_test = round(len(x) * self.val_fraction), round(len(x) * self.test_fraction)
        train, val, test = random_split((len(x) - num_val - num_test, num_val, num_test), self.split_seed)
        return (x[train], y[train]), (x[val], y[val]), (x[test], y[test])
