"""Imported by the fork server as it starts: loads what every trial needs, so that a trial begins with it.

The server may only import, and make one call, bound by the same rules: a pool of threads that has worked, or a GPU in
use, does not survive the fork.
"""

import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import process, spawn
from pathlib import Path
from typing import Any

import cloudpickle

REQUEST = "STEPSIZE_FORK_SERVER"  # environment variable that carries what to load from the driver to the server

# Signals sent to a whole job, as a terminal or a scheduler does, are the driver's to answer: it starts the server with
# these held back, and a child lets them in once it can answer. The server ends when its driver and its children have.
HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

errors: dict[str, str] = {}  # module to why it is not loaded, in one line


_prepared: Path | None = None  # the call that was made


def request(modules: tuple[str, ...], preparation: Path) -> str:
    """What the server shall load, as the value of `REQUEST`: the driver's main script, the modules, a call to make.

    The main script is loaded as multiprocessing loads it in a child, not as `__main__`. Done once in the server, what
    it registers is there in every child, none of which loads it again.
    """
    mine = spawn.get_preparation_data("fork server")
    wanted = ("sys_path", "sys_argv", "dir", "init_main_from_path", "init_main_from_name")
    main = {k: mine[k] for k in wanted if k in mine}
    return json.dumps({"main": main, "modules": modules, "preparation": preparation}, default=str)


def prepare(preparation: Path) -> None:
    """Make the packed call of a file, once in this process and those forked from it; an empty file is none."""
    global _prepared
    if preparation != _prepared and (packed := preparation.read_bytes()):
        cloudpickle.loads(packed)()
    _prepared = preparation


def load(asked: dict[str, Any]) -> dict[str, str]:
    """Load what `request` asked for; returns module to error, in one line, for what cannot be loaded."""
    failed: dict[str, str] = {}
    with _counting_gpus_without_cuda():
        _attempt(lambda: _main(asked["main"]), "__main__", failed)
        for module in asked["modules"]:
            _attempt(lambda name=module: __import__(name), module, failed)
        _attempt(lambda: prepare(Path(asked["preparation"])), "what it is to run", failed)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        failed["torch.cuda"] = "an import has initialised CUDA, which does not survive the fork"
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr)  # None where the driver has closed them
    for stream in filter(None, streams):
        stream.flush()  # what is left in a buffer, each child would print again
    gc.collect()
    gc.freeze()  # a child's collections leave these objects, and so the pages it shares with the server, alone
    return failed


def _attempt(do: Any, name: str, failed: dict[str, str]) -> None:
    try:
        do()
    except (Exception, SystemExit) as error:  # the server serves without it, and every child says what is missing
        failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"


def _main(data: dict[str, Any]) -> None:
    current: Any = process.current_process()
    current._inheriting = True  # a script that starts processes without asking for its __name__ is told so
    try:
        spawn.prepare(data)
    finally:
        del current._inheriting


@contextlib.contextmanager
def _counting_gpus_without_cuda() -> Iterator[None]:
    """Let torch answer whether there are GPUs, if an import asks, by the driver's library, which survives a fork."""
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


if REQUEST in os.environ:
    errors = load(json.loads(os.environ.pop(REQUEST)))
