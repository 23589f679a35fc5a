"""Which example is for training, which for validation, which for the test."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stepsize.data.seeds import mixed_seed


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raise ValueError unless each fraction is in (0, 1) and both leave something to train on."""
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 < fraction < 1:
            raise ValueError(f"{name} must be in (0, 1), got {fraction}")
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction + test_fraction must be below 1, got {val_fraction} + {test_fraction}:"
            " nothing is left to train on"
        )


def check_val_size(val_size: int, n: int) -> None:
    """Raise ValueError unless val_size is in [1, n-1]: both parts of n examples have at least one."""
    if not 0 < val_size < n:
        raise ValueError(f"val_size must be in [1, {n - 1}], got {val_size}: it is taken from {n} training examples")


def random_split(sizes: Sequence[int], split_seed: int) -> list[Tensor]:
    """Divide 0 .. sum(sizes)-1 at random into parts of the given sizes, each in ascending order.

    It depends on `split_seed` alone, so runs that differ in their seed are trained and judged on the same examples.
    """
    generator = torch.Generator().manual_seed(mixed_seed("split", split_seed))
    order = torch.randperm(sum(sizes), generator=generator)
    return [part.sort().values for part in order.split_with_sizes(list(sizes))]
