"""What a user types to repeat a trial."""

import os
import shlex
from collections.abc import Sequence


def threads(workers: int) -> int | None:
    """Threads of each worker where several share the cores of this machine; None leaves them all to one."""
    return max(1, len(os.sched_getaffinity(0)) // workers) if workers > 1 else None


def command(program: Sequence[str], words: Sequence[str], workers: int) -> str:
    """What a user types to repeat a trial; with as many threads, since sums depend on their number."""
    one = threads(workers)
    return (f"OMP_NUM_THREADS={one} " if one else "") + shlex.join([*program, *words])
