import pytest
import torch

from stepsize.data.normalize import Normalize
from stepsize.data.seeds import mixed_seed
from stepsize.data.splits import check_fractions, check_val_size, random_split


def test_parts_are_disjoint_and_complete() -> None:
    parts = random_split((60, 25, 15), split_seed=3)
    assert [len(part) for part in parts] == [60, 25, 15]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(100))


def test_the_split_is_random_by_its_seed_and_leaves_the_global_random_state() -> None:
    state = torch.get_rng_state()
    first, again, other = (random_split((50, 50), split_seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, torch.arange(50))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (0.0, 0.1, r"val_fraction must be in \(0, 1\), got 0.0"),
        (0.1, 1.0, r"test_fraction must be in \(0, 1\), got 1.0"),
        (0.5, 0.5, "nothing is left to train on"),
    ],
)
def test_impossible_fractions_are_refused(val: float, test: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_fractions(val, test)


@pytest.mark.parametrize("val_size", [0, -1, 100])
def test_an_impossible_val_size_is_refused(val_size: int) -> None:
    with pytest.raises(ValueError, match=rf"val_size must be in \[1, 99\], got {val_size}"):
        check_val_size(val_size, 100)


def test_seeds_are_the_same_on_every_machine() -> None:
    # A change of these numbers changes the order of every run: it belongs into the changelog.
    assert mixed_seed(0, 0) == 411788715114236230
    assert mixed_seed("split", 0) == 279345074960149146


def test_neighbouring_positions_have_different_seeds() -> None:
    assert len({mixed_seed(seed, epoch) for seed in range(50) for epoch in range(50)}) == 2500


def test_normalize_by_hand() -> None:
    x = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    normalize = Normalize((0.5, 0.5, 0.1), (0.25, 0.5, 0.1), torch.device("cpu"))
    torch.testing.assert_close(normalize(x).flatten(), torch.tensor([-2.0, 1.0, 1.0]))
