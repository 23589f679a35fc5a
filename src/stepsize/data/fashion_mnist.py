"""Fashion-MNIST."""

from functools import partial
from pathlib import Path

from stepsize.data.augment import image_augmentations
from stepsize.data.batches import Batch
from stepsize.data.download import download
from stepsize.data.errors import DataError
from stepsize.data.idx import has_sha256, read_idx
from stepsize.data.labelled import Labelled
from stepsize.data.splits import check_val_size, random_split

URL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"

# SHA-256 of the decompressed files, from the Debian package dataset-fashion-mnist.
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

# where `apt install dataset-fashion-mnist` puts them
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

NUM_TRAIN = 60_000

# Of the pixels, in units of 255, computed over the 60000 training images.
MEAN = (0.2860405969887955,)
STD = (0.3530242445149226,)


class FashionMNIST(Labelled):
    """70000 pictures of clothing, 28x28 grey pixels in 10 classes, 10000 of them for the test.

    H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms, 2017, https://arxiv.org/abs/1708.07747. The four IDX files, gzipped or not, are looked for in
    `root/fashion_mnist` and in the folder of Debian's package dataset-fashion-mnist, and otherwise downloaded (30 MB).

    Args:
        batch_size: examples a batch on each process.
        val_size: how many of the 60000 training examples are kept for validation.
        crop_padding: pixels by which a training image may move in each direction; 0 leaves it where it is.
        flip_probability: with which a training image is mirrored left to right, in [0, 1].
        seed: of the order and of the augmentation.
        split_seed: of the division into training and validation.
        root: the folder of all data sets.

    Raises:
        DataError: while loading, where a file is missing and cannot be downloaded, or is corrupt.
    """

    input_shape = (1, 28, 28)
    num_classes = 10
    mean, std = MEAN, STD

    def __init__(
        self,
        batch_size: int = 128,
        val_size: int = 5000,
        crop_padding: int = 0,
        flip_probability: float = 0.5,
        seed: int = 0,
        split_seed: int = 0,
        root: str = "data",
    ) -> None:
        super().__init__(batch_size, seed, image_augmentations(crop_padding, flip_probability))
        check_val_size(val_size, NUM_TRAIN)
        self.val_size, self.split_seed = val_size, split_seed
        self.folder = Path(root) / "fashion_mnist"

    def prepare_data(self) -> None:
        """Download the files that are in neither folder."""
        for name, sha256 in FILES.items():
            if self._find(name) is None:
                try:
                    path = self.folder / f"{name}.gz"
                    download(f"{URL}/{path.name}", path, partial(has_sha256, sha256=sha256))
                except DataError as error:
                    raise self._missing(name, f" and {error}") from error

    def read(self) -> tuple[Batch, Batch, Batch]:
        """Return the examples for training, validation and test, x uint8."""
        tensors = []
        for name, sha256 in FILES.items():
            path = self._find(name)
            if path is None:
                raise self._missing(name)
            tensors.append(read_idx(path, sha256))
        x, y, x_test, y_test = tensors
        train, val = random_split((len(x) - self.val_size, self.val_size), self.split_seed)
        x, x_test = x.unsqueeze(1), x_test.unsqueeze(1)
        y, y_test = y.long(), y_test.long()
        return (x[train], y[train]), (x[val], y[val]), (x_test, y_test)

    def _find(self, name: str) -> Path | None:
        candidates = (folder / file for folder in (self.folder, DEBIAN_FOLDER) for file in (name, f"{name}.gz"))
        return next((path for path in candidates if path.is_file()), None)

    def _missing(self, name: str, reason: str = "") -> DataError:
        return DataError(
            f"{name} is neither in {self.folder} nor in {DEBIAN_FOLDER}{reason}; put {', '.join(FILES)} (or the same"
            f" with .gz) into {self.folder}"
        )
