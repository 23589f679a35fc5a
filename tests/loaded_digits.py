"""A data module for tests: the digits, read one by one by worker processes, with noise from three libraries."""

import random

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from stepsize.data.digits import Digits
from stepsize.data.examples import Examples


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Examples that are another each time, by Python's, NumPy's and torch's global generators."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self.x[index]
        noise = torch.randn(x.shape) + torch.from_numpy(np.random.normal(size=x.shape)).float() + random.gauss(0, 1)
        return x + noise / 10, self.y[index]


class LoadedDigits(Digits):
    """data=digits data._target_=loaded_digits.LoadedDigits +data.num_workers=2, with tests/ on the PYTHONPATH."""

    def __init__(
        self,
        batch_size: int = 32,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        crop_padding: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, val_fraction, test_fraction, crop_padding, seed, split_seed)
        self.num_workers = num_workers

    def load(self, device: torch.device) -> None:
        self.train, self.val, self.test = self.read()

    def train_dataloader(self) -> Examples:  # type: ignore[override]
        return self.loader(Noisy(*self.train), self.training_order(), self.num_workers)

    def val_dataloader(self) -> Examples:  # type: ignore[override]
        return self.loader(TensorDataset(*self.val), num_workers=self.num_workers)

    def test_dataloader(self) -> Examples:  # type: ignore[override]
        return self.loader(TensorDataset(*self.test), num_workers=self.num_workers)
