"""A process that runs a command line of train.py: as `python` does, or forked from one that has loaded it all."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cloudpickle

from stepsize.config import CONF
from stepsize.sweep.fork_server import ForkServer, Job, wait

TRAIN = CONF.parent / "train.py"


class Plain:
    """`python train.py`, in a group of its own.

    Args:
        words: after train.py.
        output: file to which all that is printed is appended.
    """

    def __init__(self, words: Sequence[str], output: Path) -> None:
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]  # for the probe
        with output.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(TRAIN), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        return self._process.poll() is not None

    @property
    def exit_code(self) -> int:
        """Its exit code, minus the signal's number where one ended it; waits for its end."""
        return self._process.wait()

    def kill(self) -> None:
        """SIGKILL to the whole group, unless it has ended."""
        if not self.has_ended:
            os.killpg(self._process.pid, signal.SIGKILL)


class Forked:
    """The same from a fork server: it runs the file train.py as `__main__`, with the same command line.

    Args:
        server: has loaded what the command needs.
        words: after train.py.
        output: file to which all that is printed is appended.
    """

    def __init__(self, server: ForkServer, words: Sequence[str], output: Path) -> None:
        # `exec` returns None, where run_path returns what cannot be sent back.
        run = partial(exec, f"import runpy; runpy.run_path({str(TRAIN)!r}, run_name='__main__')")
        job = Job(cloudpickle.dumps(run), output, [str(TRAIN), *words], {"OMP_NUM_THREADS": "1"}, threads=1)
        self._process = server.start(job)

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        return self._process.has_ended

    @property
    def exit_code(self) -> int:
        """Its exit code, minus the signal's number where one ended it; waits for its end."""
        wait([self._process], None)
        return self._process.outcome().exit_code

    def kill(self) -> None:
        """SIGKILL to the whole group, unless it has ended."""
        self._process.kill()
