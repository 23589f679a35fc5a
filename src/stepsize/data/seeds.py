"""Seeds made from positions."""

import hashlib


def mixed_seed(*position: int | str) -> int:
    """Return a seed in [0, 2**63) that is a function of `position` alone.

    A hash keeps neighbours unrelated: (seed 0, epoch 1) and (seed 1, epoch 0) have nothing in common, as they would
    have with a sum. Python's own `hash` may change with its version, BLAKE2 does not.
    """
    key = ",".join(map(str, position)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
