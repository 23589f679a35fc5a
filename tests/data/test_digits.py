import pytest
import torch
from sklearn.datasets import load_digits

from stepsize.data.digits import MEAN, STD, Digits


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits()
    data.setup("fit")
    return data


def test_splits_hold_each_of_the_1797_once(digits: Digits) -> None:
    assert [len(part[0]) for part in (digits.train, digits.val, digits.test)] == [1079, 359, 359]
    x = torch.cat([part[0] for part in (digits.train, digits.val, digits.test)]).flatten(1)
    everything = (torch.from_numpy(load_digits().data) / 16 - MEAN) / STD
    assert sorted(map(tuple, x.tolist())) == sorted(map(tuple, everything.float().tolist()))


def test_a_label_stays_with_its_image(digits: Digits) -> None:
    original = load_digits()
    label = {
        tuple(row): int(y)
        for row, y in zip(
            ((torch.from_numpy(original.data) / 16 - MEAN) / STD).float().tolist(), original.target, strict=True
        )
    }
    assert all(
        label[tuple(row)] == y for row, y in zip(digits.val[0].flatten(1).tolist(), digits.val[1].tolist(), strict=True)
    )


def test_pixels_are_normalised(digits: Digits) -> None:
    x = torch.cat([digits.train[0], digits.val[0], digits.test[0]])
    torch.testing.assert_close(x.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(correction=0), torch.tensor(1.0), atol=1e-6, rtol=0)


def test_the_split_follows_split_seed_and_not_seed(digits: Digits) -> None:
    same, other = Digits(seed=1), Digits(split_seed=1)
    same.setup("fit")
    other.setup("fit")
    assert torch.equal(same.test[0], digits.test[0])
    assert not torch.equal(other.test[0], digits.test[0])


def test_a_moved_image_is_filled_with_its_background() -> None:
    data = Digits(crop_padding=7)
    data.setup("fit")
    x, _ = next(iter(data.train_dataloader()))
    corners = x[:, 0, [0, 0, 7, 7], [0, 7, 0, 7]]
    background = (corners - -MEAN / STD).abs() < 1e-6
    assert background.any(1).all()
    assert (x != 0).all()  # 0, the mean, would be the value of an empty pixel without a fill


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Digits(batch_size=0)
    with pytest.raises(ValueError, match=r"test_fraction must be in \(0, 1\), got 2"):
        Digits(test_fraction=2)
    with pytest.raises(ValueError, match="crop_padding must be at least 0, got -1"):
        Digits(crop_padding=-1)
