import pytest
import torch
from torch.nn import functional as F

from stepsize.data.augment import image_augmentations, random_crop, random_flip, random_shift


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


IMAGES = torch.arange(1, 2 * 3 * 5 + 1).view(1, 2, 3, 5)


def windows(image: torch.Tensor, padding: int, fill: float = 0) -> list[torch.Tensor]:
    padded = F.pad(image, (padding,) * 4, value=fill)
    _, height, width = image.shape
    moves = range(2 * padding + 1)
    return [padded[:, top : top + height, left : left + width] for top in moves for left in moves]


def test_a_crop_is_one_of_the_windows_of_the_padded_image_and_each_occurs() -> None:
    crops = random_crop(IMAGES.expand(500, -1, -1, -1), generator(), padding=1)
    expected = windows(IMAGES[0], padding=1)
    which = [[torch.equal(crop, window) for window in expected].index(True) for crop in crops]
    assert set(which) == set(range(9))


def test_a_crop_is_filled_with_the_value_given() -> None:
    crops = random_crop(IMAGES.float().expand(100, -1, -1, -1), generator(), padding=2, fill=-7.0)
    expected = windows(IMAGES[0].float(), padding=2, fill=-7.0)
    assert all(any(torch.equal(crop, window) for window in expected) for crop in crops)
    assert (crops == -7).any()


def test_a_flip_mirrors_the_last_axis_of_some() -> None:
    flips = random_flip(IMAGES.expand(100, -1, -1, -1), generator())
    mirrored = [torch.equal(image, IMAGES[0].flip(-1)) for image in flips]
    kept = [torch.equal(image, IMAGES[0]) for image in flips]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 30 < sum(mirrored) < 70


@pytest.mark.parametrize(("probability", "expected"), [(0.0, IMAGES), (1.0, IMAGES.flip(-1))])
def test_a_flip_of_certain_probability(probability: float, expected: torch.Tensor) -> None:
    assert torch.equal(random_flip(IMAGES, generator(), probability), expected)


def test_a_shift_rolls_by_every_amount_up_to_the_largest() -> None:
    signal = torch.arange(7.0)
    shifted = random_shift(signal.expand(200, 1, 7), generator(), max_shift=2)
    expected = [signal.roll(by) for by in (-2, -1, 0, 1, 2)]
    which = [[torch.equal(row[0], roll) for roll in expected].index(True) for row in shifted]
    assert set(which) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    "augmentation",
    [lambda x, g: random_crop(x, g, padding=2), random_flip, lambda x, g: random_shift(x, g, max_shift=2)],
)
def test_examples_are_augmented_independently_and_their_channels_alike(augmentation) -> None:
    x = torch.arange(25.0).view(1, 1, 5, 5).expand(64, 3, -1, -1)
    out = augmentation(x, generator())
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert len({tuple(image.flatten().tolist()) for image in out}) > 1
    assert torch.equal(out[:, 0], out[:, 2])


@pytest.mark.parametrize("augmentation", [random_flip, lambda x, g: random_crop(x, g, padding=2)])
def test_the_generator_alone_decides(augmentation) -> None:
    x = torch.rand(16, 1, 6, 6)
    state = torch.get_rng_state()
    assert torch.equal(augmentation(x, generator(3)), augmentation(x, generator(3)))
    assert not torch.equal(augmentation(x, generator(3)), augmentation(x, generator(4)))
    assert torch.equal(state, torch.get_rng_state())


def test_bytes_stay_bytes() -> None:
    x = torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8)
    assert random_flip(random_crop(x, generator(), 2), generator()).dtype == torch.uint8


def test_zero_switches_an_augmentation_off() -> None:
    assert image_augmentations(crop_padding=0, flip_probability=0.0) == ()
    assert len(image_augmentations(crop_padding=4, flip_probability=0.5)) == 2


def test_values_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="crop_padding must be at least 0, got -1"):
        image_augmentations(crop_padding=-1, flip_probability=0.5)
    with pytest.raises(ValueError, match=r"flip_probability must be in \[0, 1\], got 1.5"):
        image_augmentations(crop_padding=0, flip_probability=1.5)
