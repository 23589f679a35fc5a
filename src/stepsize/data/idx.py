"""The IDX format of MNIST and its relatives."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from stepsize.data.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTES = b"\x00\x00\x08"


def contents(path: Path) -> bytes:
    """Return what a file holds, decompressed if it is a gzip; raise DataError if the gzip is corrupt or truncated."""
    data = path.read_bytes()
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is corrupt or truncated ({error}): delete it and run again") from error


def has_sha256(path: Path, sha256: str) -> bool:
    """Whether the decompressed content has this SHA-256, so that it does not matter who compressed it."""
    try:
        return hashlib.sha256(contents(path)).hexdigest() == sha256
    except DataError:
        return False


def read_idx(path: Path, sha256: str) -> Tensor:
    """Read unsigned bytes from an IDX file, gzipped or not, into a uint8 tensor of the shape that its header tells.

    Y. LeCun, C. Cortes and C. Burges, The MNIST Database of Handwritten Digits, 1998, section File formats,
    https://yann.lecun.com/exdb/mnist/: two zero bytes, the type, the number of dimensions, each dimension as a
    big-endian uint32, then the values, the last dimension fastest.

    Raises:
        DataError: the file is not IDX, is shorter or longer than its header tells, or has another SHA-256.
    """
    data = contents(path)
    if data[:3] != UNSIGNED_BYTES or len(data) < 4 or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path} is not an IDX file of bytes: delete it and run again")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{path} holds {len(data) - start} values and its header tells {math.prod(shape)}: delete it and run again"
        )
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{path} is not the published file (its SHA-256 differs): delete it and run again")
    # a bytearray, because a tensor over bytes that cannot be written is warned about
    return torch.frombuffer(bytearray(data[start:]), dtype=torch.uint8).view(shape)
