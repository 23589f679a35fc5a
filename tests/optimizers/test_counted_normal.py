"""Normal numbers from a key and a count: their distribution, and that they do not depend on one another."""

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from stepsize.optimizers.counted_normal import (
    BLOCK,
    CHUNK,
    LARGE,
    WIDTH,
    Key,
    Numbering,
    _cosine,
    _radius_squared,
    _sine,
    blocks,
    elements,
    in_chunks,
    int32,
    lanes,
    normal,
    pair,
    spread,
    words,
)

N = 1 << 20
KEYS = [(1, 1), (3, 1), (1, 3), (-(2**31) + 1, 2**31 - 1), (123456789, -987654321)]


def key(of: tuple[int, int]) -> list[Tensor]:
    return elements(Key(*of, Numbering()).at(0))


def drawn(of: tuple[int, int], start: int = 0, *, fused: bool = True) -> Tensor:
    index = torch.arange(N, dtype=torch.int32) + start
    return normal(index, key(of), torch.float32, fused=fused).double()


def correlation(x: Tensor, y: Tensor) -> float:
    return float((x * y).mean()) * math.sqrt(N)  # a standard normal number itself, where they are independent


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("of", KEYS)
def test_the_moments_are_those_of_the_normal_distribution(of: tuple[int, int], fused: bool) -> None:
    z = drawn(of, fused=fused)
    # z, z², z³ and z⁴ have the means 0, 1, 0, 3 and the variances 1, 2, 15, 96.
    moments = zip((0, 1, 0, 3), (1, 2, 15, 96), strict=True)
    off = [float(z.pow(k).mean() - mean) * math.sqrt(N / v) for k, (mean, v) in enumerate(moments, 1)]
    assert max(map(abs, off)) < 4.5


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("of", KEYS)
def test_the_distribution_is_normal(of: tuple[int, int], fused: bool) -> None:
    share = torch.special.ndtr(drawn(of, fused=fused).sort().values)
    ranks = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    assert float((share - ranks).abs().max()) < 1.95 / math.sqrt(N)  # Kolmogorov's distance: once in a thousand more


@pytest.mark.parametrize("of", KEYS)
@pytest.mark.parametrize("lag", [1, 2, 3, 16, WIDTH, BLOCK, 512, 4096])
def test_coordinates_do_not_correlate(of: tuple[int, int], lag: int) -> None:
    one, other = drawn(of), drawn(of, start=lag)
    assert abs(correlation(one, other)) < 4.5
    assert abs(correlation(one**2 - 1, other**2 - 1)) / 2 < 4.5


@pytest.mark.parametrize(("one", "other"), list(combinations(KEYS, 2)))
def test_keys_that_differ_little_give_numbers_that_do_not_correlate(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    x, y = drawn(one), drawn(other)
    assert abs(correlation(x, y)) < 4.5
    assert abs(correlation(x**2 - 1, y**2 - 1)) / 2 < 4.5


@pytest.mark.parametrize("of", KEYS)
def test_every_byte_of_the_words_is_uniform(of: tuple[int, int]) -> None:
    for word in words(spread(torch.arange(N, dtype=torch.int32), key(of)), key(of)):
        for shift in (8, 16, 24):  # the lowest one decides about the last bits of the smallest angles only
            counts = torch.bincount((word >> shift) & 255, minlength=256).double()
            square = float((counts - N / 256).square().sum() / (N / 256))
            assert abs(square - 255) < 5 * math.sqrt(2 * 255)


@pytest.mark.parametrize("of", KEYS)
def test_the_two_of_a_draw_do_not_correlate(of: tuple[int, int]) -> None:
    x = spread(torch.arange(N, dtype=torch.int32), key(of))
    one, other = (z.double() for z in pair(x, key(of), torch.float32, fused=True))
    assert abs(correlation(one, other)) < 4.5
    assert abs(correlation(one**2 - 1, other**2 - 1)) / 2 < 4.5
    assert abs(correlation(one**2 - 1, other)) / math.sqrt(2) < 4.5


def test_where_a_range_of_numbers_begins_does_not_matter() -> None:
    assert torch.equal(drawn(KEYS[4])[1000:], drawn(KEYS[4], start=1000)[:-1000])


@pytest.mark.parametrize("number", [0, 1, WIDTH, BLOCK - 1, BLOCK, 12345, 2**31 - 100, -(2**31), -77])
@pytest.mark.parametrize("shape", [(1,), (WIDTH + 1,), (3, 5, 7), (CHUNK + 1,), (2 * CHUNK,)])
def test_drawn_in_chunks_they_are_the_same(number: int, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    found = list(in_chunks(x, Key(*KEYS[4], Numbering()).at(number)))
    assert [part.shape for part, _ in found] == [z.shape for _, z in found]
    expected = normal(torch.arange(x.numel(), dtype=torch.int32) + number, key(KEYS[4]), torch.float32, fused=False)
    assert torch.equal(torch.cat([z.flatten() for _, z in found]), expected)


@pytest.mark.parametrize("number", [0, BLOCK, -3 * BLOCK, 2**31 - BLOCK])
@pytest.mark.parametrize(
    ("size", "divided"), [(LARGE, [False]), (LARGE + BLOCK, [True]), (LARGE + 1, [True, False]), (BLOCK + 3, [False])]
)
def test_blocks_are_tensors_in_halves_and_what_is_left(number: int, size: int, divided: list[bool]) -> None:
    x = torch.arange(size, dtype=torch.float32).view(1, size)
    seen = torch.zeros(size)
    found = blocks([x, 2 * x], number)
    for (whole, other), given, first, in_halves in found:
        if in_halves:
            begins = spread(torch.arange(len(given[0]), dtype=torch.int32) * BLOCK + first, key(KEYS[4]))
            drawn = pair(begins[:, None] + lanes(x.device), key(KEYS[4]), torch.float32, fused=True)
            both = torch.stack(drawn, 1).view(-1)
            rebuilt = [torch.stack(given[i : i + 2], 1).view(-1) for i in (0, 2)]
        else:
            numbers = torch.arange(len(given[0]), dtype=torch.int32) + first
            both, rebuilt = normal(numbers, key(KEYS[4]), torch.float32, fused=True), given
        flat = whole.view(-1)
        seen[int(flat[0]) : int(flat[0]) + len(flat)] = both
        assert [torch.equal(*pair) for pair in zip(rebuilt, (flat, other.view(-1)), strict=True)] == [True, True]
    every = normal(torch.arange(size, dtype=torch.int32) + number, key(KEYS[4]), torch.float32, fused=True)
    torch.testing.assert_close(seen, every, rtol=0, atol=0)
    assert [in_halves for *_, in_halves in found] == divided


def test_a_vector_that_begins_within_a_block_is_not_divided() -> None:
    x = torch.ones(LARGE + BLOCK)
    assert [(first, in_halves) for _, _, first, in_halves in blocks([x], 1)] == [(1, False)]


def test_numbers_are_handed_out_once_and_a_large_vector_begins_with_a_block() -> None:
    numbering = Numbering()
    sizes = [3, LARGE, LARGE + 1, 5, 2**20, 2**31, 7]
    found = [numbering.take(size) % 2**32 for size in sizes]
    ends = [first + size for first, size in zip(found, sizes, strict=True)]
    assert all(end <= first for end, first in zip(ends, found[1:], strict=False))
    assert [first % BLOCK for first, size in zip(found, sizes, strict=True) if size > LARGE] == [0, 0, 0]


def test_a_number_made_where_nothing_is_computed_is_not_kept() -> None:
    with FakeTensorMode():
        assert type(Key(1, 1, Numbering()).at(987654)[1]) is FakeTensor
    again = [Key(1, 1, Numbering()).at(987654)[1] for _ in range(2)]
    assert type(again[0]) is Tensor
    assert again[0] is again[1]


def test_after_32_bits_numbers_begin_anew() -> None:
    numbering = Numbering()
    assert [numbering.take(2**31), numbering.take(2**31), numbering.take(1)] == [0, -(2**31), 0]
    assert [int32(n) for n in (2**31 - 1, 2**31, 2**32 + 5)] == [2**31 - 1, -(2**31), 5]


def test_the_polynomials_are_the_logarithm_the_sine_and_the_cosine() -> None:
    k = torch.cat([torch.arange(1, N, 2), 2**24 - torch.arange(1, N, 2), torch.arange(1, 2**24, 1023) | 1]).int() * 128
    exact = -2 * torch.log(k.double() * 2**-31)
    assert float(((_radius_squared(k).double() - exact) / exact).abs().max()) < 7e-6
    s = torch.linspace(-0.5, 0.5, N)
    assert float((_sine(s).double() - torch.sin(math.pi * s.double())).abs().max()) < 8e-7
    assert float((_cosine(s).double() - torch.cos(math.pi * s.double())).abs().max()) < 7e-6


def test_float64_has_more_bits_than_float32_and_the_same_numbers() -> None:
    index = torch.arange(N, dtype=torch.int32)
    fine = normal(index, key(KEYS[4]), torch.float64, fused=True)
    assert len(torch.unique(fine)) > 0.999 * N
    torch.testing.assert_close(drawn(KEYS[4]), fine, rtol=0, atol=4e-5)
