"""Normal numbers as a function of a key and a number: no state, the same in any order, on any number of threads."""

import math

import torch
from torch import Tensor

BLOCK = 1 << 17  # coordinates drawn at a time where each operation is a pass: enough for threads, few enough for caches


def words(index: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two random words of 32 bits for each index, by pcg3d.

    Mark Jarzynski, Marc Olano, Hash Functions for GPU Rendering, 2020, https://jcgt.org/published/0009/03/02/. Its
    first line, which spreads small numbers, is taken for the index only: the key is random.

    Args:
        index: int32.
        first: half of the key, an odd int32.
        second: the other half, alike.
    """
    x, y, z = index * 1664525 + 1013904223, first, second
    x = x + y * z
    y = y + z * x
    z = z + x * y
    x, y, z = (w ^ ((w >> 16) & 0xFFFF) for w in (x, y, z))  # of an int32, >> copies the sign
    x = x + y * z
    return x, y + z * x


def normal(index: Tensor, first: Tensor, second: Tensor, dtype: torch.dtype, *, fused: bool) -> Tensor:
    """A standard normal number for each index, from two uniform ones of 23 bits; at most 5.9 in size.

        z = √(-2 ln u) sin(π s),  u uniform in (0, 1),  s uniform in (-1/2, 1/2)

    G. E. P. Box, Mervin E. Muller, A Note on the Generation of Random Normal Deviates, 1958,
    https://doi.org/10.1214/aoms/1177706645. There the angle goes round the circle, which its sine does twice.

    Args:
        index: int32.
        first: half of the key, an odd int32; the other half of the key makes another sequence, too.
        second: the other half, alike.
        dtype: of the numbers, float32 or float64.
        fused: with polynomials in place of the logarithm and the sine, where all of this is compiled into one pass.
            That takes less time there, and more where every operation is a pass. They agree to 1e-6 of a number.
    """
    a, b = words(index, first, second)
    k = ((a >> 8) & 0xFFFFFF) | 1
    s = ((b >> 8) | 1).to(dtype) * 2**-24
    if fused and dtype == torch.float32:
        return _radius_squared(k).sqrt() * _sine(s)
    return torch.sqrt(torch.log(k.to(dtype) * 2**-24) * -2) * torch.sin(s * math.pi)


def _radius_squared(k: Tensor) -> Tensor:
    """-2 ln(k / 2^24) in float32: k = 2^e (2 - p) with 0 < p <= 1 gives 2 (23 - e) ln 2 - 2 ln(1 - p/2)."""
    bits = k.to(torch.float32).view(torch.int32)
    p = (0x800000 - (bits & 0x7FFFFF)).to(torch.float32) * 2**-23
    # By Chebyshev's nodes, of degree 6 in p: a relative error of 1.1e-6.
    tail = (
        ((((0.0155011822 * p - 0.0200052698) * p + 0.0327508446) * p + 0.02340028) * p + 0.0847374722) * p + 0.249907535
    ) * p + 1.00000098
    return (150 - (bits >> 23)).to(torch.float32) * 1.3862943611198906 + p * tail


def _sine(s: Tensor) -> Tensor:
    """sin(π s) for -1/2 < s < 1/2, by Chebyshev's nodes of degree 4 in s²: an error of 2e-7."""
    t = s * s
    return s * ((((0.0776576603 * t - 0.598291286) * t + 2.55007752) * t - 5.16771008) * t + 3.14159264)
