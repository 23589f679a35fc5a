import hashlib
import random

import numpy as np
import pytest
import torch

from stepsize.data.mnist1d import MNIST1D


@pytest.fixture(scope="module")
def mnist1d() -> MNIST1D:
    data = MNIST1D()
    data.setup("fit")
    return data


def test_the_generated_data_are_the_published_ones(mnist1d: MNIST1D) -> None:
    # The beginnings of examples 0, 1 and 18 in mnist1d_data.pkl, as published.
    published = [
        [-0.3320056673693902, -0.4719103656557236, -0.778697076293495, -1.0097408265367047],
        [1.9654808817629648, 2.300212537472408, 2.213392782800504, 1.9891737610617297],
        [-1.0086343491358487, -0.6209682887124347, -0.18443195859464223, 0.4495064071966908],
    ]
    beginnings = torch.cat([mnist1d.train[0], mnist1d.val[0]])[:, 0, :4]
    distance = torch.cdist(torch.tensor(published), beginnings, compute_mode="donot_use_mm_for_euclid_dist")
    assert distance.min(1).values.max() < 1e-6


def test_the_generated_data_do_not_change(mnist1d: MNIST1D) -> None:
    # Rounded, so that only another stream of random numbers in numpy is noticed and not another order of a sum.
    x, y = mnist1d.test
    rounded = (x.double() * 1000).round().int().numpy().astype("<i4").tobytes() + y.numpy().astype("<i4").tobytes()
    assert hashlib.sha256(rounded).hexdigest() == "1a251a7b5f2e0c6a1a678680a75176edb61b4c6ed2a39890ab1bcd03d1f28d8f"


def test_sizes(mnist1d: MNIST1D) -> None:
    assert [len(part[0]) for part in (mnist1d.train, mnist1d.val, mnist1d.test)] == [3500, 500, 1000]


def test_training_and_validation_are_disjoint(mnist1d: MNIST1D) -> None:
    rows = torch.cat([mnist1d.train[0], mnist1d.val[0]]).flatten(1)
    assert len(rows.unique(dim=0)) == 4000


def test_global_random_states_are_kept() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    MNIST1D().setup("fit")
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_training_signals_are_rolled_and_validation_ones_are_not(mnist1d: MNIST1D) -> None:
    moved = MNIST1D(max_shift=5)
    moved.setup("fit")
    plain, rolled = next(iter(mnist1d.train_dataloader()))[0], next(iter(moved.train_dataloader()))[0]
    assert not torch.equal(plain, rolled)
    assert torch.equal(plain.sort(-1).values, rolled.sort(-1).values)
    assert torch.equal(next(iter(mnist1d.val_dataloader()))[0], next(iter(moved.val_dataloader()))[0])


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"val_size must be in \[1, 3999\], got 4000"):
        MNIST1D(val_size=4000)
    with pytest.raises(ValueError, match="max_shift must be at least 0, got -1"):
        MNIST1D(max_shift=-1)
