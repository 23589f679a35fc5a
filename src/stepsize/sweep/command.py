"""What a user types to repeat a trial."""

import os
import shlex
from collections.abc import Sequence


def threads(workers: int) -> int | None:
    """Threads of each worker where several share the cores of this machine; None leaves them all to one."""
    return max(1, len(os.sched_getaffinity(0)) // workers) if workers > 1 else None


def command(program: Sequence[str], words: Sequence[str], num_threads: int | None) -> str:
    """What a user types to repeat a trial; with as many threads, since sums depend on their number.

    Args:
        program: such as ("python", "train.py").
        words: the trial's overrides.
        num_threads: that it ran with; None for all.
    """
    return (f"OMP_NUM_THREADS={num_threads} " if num_threads else "") + shlex.join([*program, *words])


def quoted(value: object) -> str:
    """A value for an override, in Hydra's quotes."""
    text = str(value).replace("'", r"\'")
    return f"'{text}'"
