"""CIFAR-10."""

import hashlib
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch

from stepsize.data.augment import image_augmentations
from stepsize.data.batches import Batch
from stepsize.data.download import download
from stepsize.data.errors import DataError
from stepsize.data.files import whole_file
from stepsize.data.labelled import Labelled
from stepsize.data.splits import check_val_size, random_split

# The binary version: the Python version is a pickle, which may run code when it is read.
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"

FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILE = "test_batch.bin"
EXAMPLES_PER_FILE = 10_000
RECORD_BYTES = 1 + 3 * 32 * 32

# Of the red, green and blue pixels, in units of 255, over the 50000 training images, as widely published.
MEAN = (0.49139968, 0.48215841, 0.44653091)
STD = (0.24703223, 0.24348513, 0.26158784)


def _has_md5(path: Path) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == MD5


class CIFAR10(Labelled):
    """60000 colour pictures of 32x32 pixels in 10 classes, 10000 of them for the test.

    A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html. Read from `root/cifar10/cifar-10-batches-bin`, which is extracted from
    `root/cifar10/cifar-10-binary.tar.gz`, which is downloaded (170 MB).

    Args:
        batch_size: examples a batch on each process.
        val_size: how many of the 50000 training examples are kept for validation.
        crop_padding: pixels by which a training image may move in each direction; 0 leaves it where it is.
        flip_probability: with which a training image is mirrored left to right, in [0, 1].
        seed: of the order and of the augmentation.
        split_seed: of the division into training and validation.
        root: the folder of all data sets.

    Raises:
        DataError: while loading, where a file is missing and cannot be downloaded, or is corrupt.
    """

    input_shape = (3, 32, 32)
    num_classes = 10
    mean, std = MEAN, STD

    def __init__(
        self,
        batch_size: int = 128,
        val_size: int = 5000,
        crop_padding: int = 4,
        flip_probability: float = 0.5,
        seed: int = 0,
        split_seed: int = 0,
        root: str = "data",
    ) -> None:
        super().__init__(batch_size, seed, image_augmentations(crop_padding, flip_probability))
        check_val_size(val_size, len(TRAIN_FILES) * EXAMPLES_PER_FILE)
        self.val_size, self.split_seed = val_size, split_seed
        self.archive = Path(root) / "cifar10" / Path(URL).name
        self.folder = self.archive.parent / FOLDER

    def prepare_data(self) -> None:
        """Extract the files that are missing, and download their archive first if that is missing too."""
        missing = [name for name in (*TRAIN_FILES, TEST_FILE) if not (self.folder / name).is_file()]
        if not missing:
            return
        if not self.archive.is_file():
            try:
                download(URL, self.archive, _has_md5)
            except DataError as error:
                raise DataError(
                    f"{', '.join(missing)} not in {self.folder}, {self.archive.name} not in {self.archive.parent} and"
                    f" {error}; put the archive there"
                ) from error
        elif not _has_md5(self.archive):
            raise DataError(f"{self.archive} is corrupt or truncated (its MD5 is not {MD5}): delete it and run again")
        self._extract(missing)

    def _extract(self, names: list[str]) -> None:
        try:
            with tarfile.open(self.archive) as archive:
                for name in names:
                    member = archive.extractfile(f"{FOLDER}/{name}")
                    assert member is not None, f"{name} is no regular file"
                    with member, whole_file(self.folder / name) as file:
                        file.write(member.read())
        except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
            raise DataError(f"{self.archive} is corrupt ({error}): delete it and run again") from error

    def read(self) -> tuple[Batch, Batch, Batch]:
        """Return the examples for training, validation and test, x uint8."""
        parts = [self._read_file(name) for name in TRAIN_FILES]
        x, y = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        train, val = random_split((len(x) - self.val_size, self.val_size), self.split_seed)
        return (x[train], y[train]), (x[val], y[val]), self._read_file(TEST_FILE)

    def _read_file(self, name: str) -> Batch:
        # A record is one byte of label, then 1024 bytes each of red, green and blue, row by row.
        path = self.folder / name
        if not path.is_file():
            raise DataError(f"{name} is not in {self.folder}; put {self.archive.name} into {self.archive.parent}")
        data = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
        if len(data) != EXAMPLES_PER_FILE * RECORD_BYTES:
            raise DataError(
                f"{path} has {len(data)} bytes instead of {EXAMPLES_PER_FILE * RECORD_BYTES}: delete it and run again"
            )
        records = data.view(EXAMPLES_PER_FILE, RECORD_BYTES)
        x, y = records[:, 1:].reshape(-1, *self.input_shape), records[:, 0].long()
        if y.max() >= self.num_classes:
            raise DataError(f"{path} is corrupt (it has a label {int(y.max())}): delete it and run again")
        return x, y
