"""Normal numbers as a function of a key and a number: no state, the same in any order, on any number of threads."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]

WIDTH = 64  # number c and number c + WIDTH, where c // WIDTH is even, are of one draw
BLOCK = 2 * WIDTH
CHUNK = 1 << 17  # numbers drawn at a time where each operation is a pass: enough for threads, few enough for caches
LARGE = 4096  # from here on, a vector's numbers begin with a block
_SPREAD = 1664525
_ONE = 0x3F800000  # the bits of 1.0 in float32; with others in the last 23 places, of numbers from 1 to 2
_NUMBERS: dict[int, Tensor] = {}  # a parameter's is the same at every step
_KEPT = 4096
# Compiled for a CPU, reading these takes less time than counting.
LANES = torch.arange(WIDTH, dtype=torch.int32, device="cpu") * _SPREAD


class Numbering:
    """Hands out the numbers of coordinates, from 0 to 2³², and then anew."""

    def __init__(self) -> None:
        self._next = 0

    def take(self, size: int) -> int:
        """The number of the first of so many coordinates, as an int32; a multiple of BLOCK for a large vector."""
        first = -(-self._next // BLOCK) * BLOCK if size > LARGE else self._next
        self._next = first + size
        return int32(first)


@dataclass(frozen=True)
class Key:
    """Which normal numbers are drawn: those of two random halves, odd and int32, for the numbers of coordinates.

    What takes a key of four wants the elements of what `at` returns: first, second, their product, a number.
    """

    first: int
    second: int
    numbering: Numbering

    @cached_property
    def _words(self) -> Tensor:
        return _vector(self.first, self.second, int32(self.first * self.second))

    def at(self, number: int) -> tuple[Tensor, Tensor]:
        """The two halves and their product; the number of a first coordinate. Both int32 on the CPU."""
        return self._words, _number(number)


def elements(vectors: Sequence[Tensor]) -> list[Tensor]:
    """Those of several vectors, in one row, 0-d."""
    return [x for vector in vectors for x in vector.unbind()]


def _vector(*words: int) -> Tensor:
    return torch.tensor(words, dtype=torch.int32, device="cpu")


def _number(number: int) -> Tensor:
    if number in _NUMBERS:
        return _NUMBERS[number]
    made = _vector(number)
    if type(made) is Tensor:  # not one of a mode that computes nothing, which would outlive the mode
        if len(_NUMBERS) >= _KEPT:
            _NUMBERS.clear()
        _NUMBERS[number] = made
    return made


def int32(number: int) -> int:
    """The int32 that has the last 32 bits of a number."""
    return (number + 2**31) % 2**32 - 2**31


def halves(dense: Tensor) -> tuple[Tensor, ...]:
    """The first halves of m whole blocks that lie side by side and the others, m x WIDTH."""
    return dense.view(-1, 2, WIDTH).unbind(1)


Blocks = tuple[Sequence[Tensor], Sequence[Tensor], int, bool]


def blocks(dense: Sequence[Tensor], number: int) -> list[Blocks]:
    """The whole blocks of contiguous tensors, then what is left of them.

    Args:
        dense: as many coordinates each.
        number: of the first coordinate.

    Returns:
        Of each: the tensors; the `halves` of all of them, one tensor's after the other's; the number of the first
        coordinate; True. What is left, or all where a tensor is not LARGE or number is no multiple of BLOCK, is
        vectors, which come in place of halves, too, and False.
    """
    size = dense[0].numel()
    whole = size - size % BLOCK if number % BLOCK == 0 and size > LARGE else 0
    first = dense if whole == size else [t.view(-1)[:whole] for t in dense]
    found: list[Blocks] = [(first, [h for t in first for h in halves(t)], number, True)] if whole else []
    if whole < size:
        left = [t.view(-1)[whole:] for t in dense]
        found.append((left, left, int32(number + whole), False))
    return found


def spread(number: Tensor, key: Sequence[Tensor]) -> Tensor:
    """The first line of pcg3d, for a number: that of number + lane is this + `lanes`.

    Args:
        number: int32.
        key: of four; its number is not looked at.
    """
    _, _, product, _ = key
    return number * _SPREAD + (1013904223 + product)


def lanes(device: torch.device) -> Tensor:
    """0, 1, ..., WIDTH - 1, spread."""
    return LANES if device.type == "cpu" else torch.arange(WIDTH, dtype=torch.int32, device=device) * _SPREAD


def words(x: Tensor, key: Sequence[Tensor]) -> Pair:
    """Two random words of 32 bits for each number, by pcg3d.

    Mark Jarzynski, Marc Olano, Hash Functions for GPU Rendering, 2020, https://jcgt.org/published/0009/03/02/. Its
    first line, which spreads small numbers, is taken for the number only: the key is random.

    Args:
        x: the numbers, `spread`.
        key: of four; its number is not looked at.
    """
    y, z, *_ = key
    y = y + z * x
    z = z + x * y
    x, y, z = (w ^ ((w >> 16) & 0xFFFF) for w in (x, y, z))  # of an int32, >> copies the sign
    x = x + y * z
    return x, y + z * x


def pair(x: Tensor, key: Sequence[Tensor], dtype: torch.dtype, scale: Any = 1.0, *, fused: bool) -> Pair:
    """Two normal numbers for each number, from uniform ones of 23 bits each and a sign; at most 5.8 σ in size.

        z₁ = σ √(-2 ln u) sin(π s),  z₂ = ± σ √(-2 ln u) cos(π s),  u uniform in (0, 1),  s uniform in [-1/2, 1/2)

    G. E. P. Box, Mervin E. Muller, A Note on the Generation of Random Normal Deviates, 1958,
    https://doi.org/10.1214/aoms/1177706645. There the angle goes round the circle; here half of it and a sign do.

    Args:
        x: the numbers, `spread`; the smaller of the two that the draw is for.
        key: of four; its number is not looked at.
        dtype: of the normal numbers, float32 or float64.
        scale: σ.
        fused: with polynomials in place of the logarithm, sine and cosine, where all of this is compiled into one pass.
            That takes less time there, and more where every operation is a pass. They agree to 4e-5 σ.
    """
    a, b = words(x, key)
    k, h = (a & 0x7FFFFF00) | 128, (b >> 9) & 0x7FFFFF  # of the lowest bytes some keys make little
    if fused and dtype == torch.float32:
        s = (h | _ONE).view(dtype) - 1.5
        radius, sine, cosine = _radius_squared(k).sqrt() * scale, _sine(s), _cosine(s)
        cosine = (cosine.view(torch.int32) ^ (a & -(2**31))).view(dtype)  # the sign of a turns it
    else:
        radius, angle = torch.sqrt(torch.log(k.to(dtype) * 2**-31) * -2) * scale, (h.to(dtype) * 2**-23 - 0.5) * math.pi
        sine, cosine = torch.sin(angle), torch.cos(angle)
        cosine = torch.where(a < 0, -cosine, cosine)
    return radius * sine, radius * cosine


def normal(number: Tensor, key: Sequence[Tensor], dtype: torch.dtype, scale: Any = 1.0, *, fused: bool) -> Tensor:
    """The normal number of each number, an int32: one of its `pair`."""
    one, other = pair(spread(number & ~WIDTH, key), key, dtype, scale, fused=fused)
    return torch.where((number & WIDTH) == 0, one, other)


def in_chunks(x: Tensor, key: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of x and the standard normal number of each coordinate, where every operation is a pass over memory.

    Args:
        x: the numbers are float32 or float64, whichever holds its dtype. Where it is not contiguous it is one part.
        key: `Key.at` the number of the first coordinate.
    """
    key, number = elements(key), int(key[1])
    x = x.view(-1) if x.is_contiguous() else x
    dtype = torch.promote_types(x.dtype, torch.float32)
    skipped = number % BLOCK  # coordinates of the first block that come before x
    for index, part in enumerate(torch.split(x, CHUNK) if x.ndim == 1 else [x]):
        end = skipped + part.numel()
        block = torch.arange(-(-end // BLOCK), dtype=torch.int32, device=x.device)
        first = block * BLOCK + int32(number - skipped + index * CHUNK)
        spreads = spread(first, key)[:, None] + lanes(x.device)
        drawn = torch.stack(pair(spreads, key, dtype, fused=False), 1).view(-1)
        yield part, drawn[skipped:end].view(part.shape)


def _radius_squared(k: Tensor) -> Tensor:
    """-2 ln(k / 2^31) in float32: k = 2^e (2 - p) with 0 < p <= 1 gives 2 (30 - e) ln 2 - 2 ln(1 - p/2)."""
    bits = k.to(torch.float32).view(torch.int32)
    p = 2 - ((bits & 0x7FFFFF) | _ONE).view(torch.float32)
    # The greatest relative error made least: 7e-6.
    tail = ((((0.0264493673 * p - 0.0194433577) * p + 0.0504203419) * p + 0.0784177784) * p + 0.250447724) * p
    return (157 - (bits >> 23)).to(torch.float32) * 1.3862943611198906 + p * (tail + 0.999993509)


def _sine(s: Tensor) -> Tensor:
    """sin(π s) for -1/2 <= s <= 1/2, of degree 3 in s², the greatest error made least: 8e-7."""
    t = s * s
    return s * (((-0.554636197 * t + 2.54189903) * t - 5.1671428) * t + 3.14158202)


def _cosine(s: Tensor) -> Tensor:
    """cos(π s) for -1/2 <= s <= 1/2, of degree 3 in s², the greatest error made least: 7e-6."""
    t = s * s
    return ((-1.22212705 * t + 4.04128382) * t - 4.93393801) * t + 0.999993295
