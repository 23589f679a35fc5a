import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from stepsize.data.examples import Examples

# Python 3.12 and later warn of what every DataLoader does.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")


@pytest.fixture
def running() -> Iterator[tuple[Examples, Iterator[list[int]]]]:
    """Batches with the worker's process id in them, of which the first has been read."""
    batches = Examples(range(1000), 2, num_workers=1, collate_fn=lambda batch: [os.getpid()])
    iterator = iter(batches)
    next(iterator)
    yield batches, iterator
    batches._iterator._shutdown_workers()


@pytest.mark.parametrize("name", ["INT", "TERM", "USR1"])
def test_a_worker_outlives_what_a_scheduler_sends_to_every_process(
    running: tuple[Examples, Iterator[list[int]]], name: str
) -> None:
    _, iterator = running
    (pid,) = next(iterator)
    subprocess.run(["kill", f"-{name}", str(pid)], check=True)  # another process, as this one is the worker's parent
    time.sleep(0.2)
    assert all(batch == [pid] for batch in iterator)


def test_a_worker_ends_when_its_parent_says_so(running: tuple[Examples, Iterator[list[int]]]) -> None:
    batches, iterator = running
    (worker,) = batches._iterator._workers
    list(iterator)
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def test_a_worker_ends_with_its_parent() -> None:
    code = """
import os
from stepsize.data.examples import Examples
batches = iter(Examples(range(10), 2, num_workers=1, collate_fn=lambda batch: [os.getpid()]))
print(next(batches)[0] != os.getpid(), flush=True)
os.kill(os.getpid(), 9)
"""
    # The worker holds the pipe open, which is read until its end: a worker that stayed would exceed the time.
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.stdout == "True\n"
