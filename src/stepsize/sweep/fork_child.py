"""What happens in a trial's process, which the fork server has just forked: before, around and after its call."""

import faulthandler
import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing import connection, parent_process
from pathlib import Path
from types import FrameType
from typing import Any

import cloudpickle

from stepsize.sweep import fork_preload

STOPPED = 128 + signal.SIGTERM  # exit code of a process that was asked to stop
_INTERRUPTED = 128 + signal.SIGINT
_LONGEST_END = 10.0  # seconds for what a trial leaves running, such as threads, once its result is written


@dataclass(frozen=True)
class Order:
    """What the driver sends; `Job` in fork_server says what the fields mean.

    Args:
        answer: file to write the pickled `Answer` to; there once it is whole.
        preload: modules that the fork server should have loaded.
        preparation: file with the call that it should have made.
    """

    call: bytes
    output: Path
    argv: tuple[str, ...]
    environment: dict[str, str]
    threads: int | None
    answer: Path
    preload: tuple[str, ...]
    preparation: Path


@dataclass
class Answer:
    """How the call ended, as far as the child can say.

    Args:
        value: what the call returned.
        error: one line; "" where the call returned.
        traceback: of the error.
        interrupted: whether a signal asked it to stop.
        not_loaded: module that the fork server should have loaded to why it has not.
    """

    value: Any = None
    error: str = ""
    traceback: str = ""
    interrupted: bool = False
    not_loaded: dict[str, str] = field(default_factory=dict)


class _Stop:
    """Answers SIGTERM: the first as Ctrl-C is answered, so that training ends in order; the second at once."""

    def __init__(self) -> None:
        self.asked = False
        self.raises = True  # until the call has ended: then nothing is left to interrupt

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(STOPPED)
        self.asked = True
        if self.raises:
            raise KeyboardInterrupt

    def listen(self) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, self)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, fork_preload.HELD)


def run(orders: connection.Connection) -> None:
    """Wait for an `Order`, make its call in a session of its own and write its `Answer`.

    Args:
        orders: where the one order comes from; signals wait as well until it has come.

    Raises:
        SystemExit: always, with the exit code of the process.
    """
    os.setsid()  # a terminal's Ctrl-C does not come here, and a signal to the group reaches all that the call starts
    threading.Thread(target=_end_with_driver, name="end with driver", daemon=True).start()
    try:
        order: Order = orders.recv()
    except EOFError:  # the driver has no work left, or has ended
        raise SystemExit(0) from None
    orders.close()
    _redirect(order.output)
    stop = _Stop()
    answer = Answer(not_loaded=_not_loaded(order.preload))
    code = 0
    try:
        stop.listen()
        _settle(order)
        fork_preload.prepare(order.preparation)
        answer.value = cloudpickle.loads(order.call)()
        stop.raises = False
    except BaseException as error:  # whatever it is, the driver is told
        stop.raises = False
        code = _describe(error, answer)
    if stop.asked:
        answer.interrupted, code = True, STOPPED
    code = _write(answer, order.answer) or code
    threading.Thread(target=_end_late, args=(code,), daemon=True).start()
    logging.shutdown()
    raise SystemExit(code)


def one_line(error: BaseException) -> str:
    """Such as "ValueError: no such data"."""
    text = " ".join(str(error).split())
    name = type(error).__qualname__
    return f"{name}: {text}" if text else name


def _redirect(output: Path) -> None:
    target = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    source = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((source, 0), (target, 1), (target, 2)):
        os.dup2(old, new)
    os.close(target)
    os.close(source)
    sys.stdout = _line_by_line(sys.stdout, 1)
    sys.stderr = _line_by_line(sys.stderr, 2)
    faulthandler.enable(file=2)  # a segfault leaves its Python stack in the output


def _line_by_line(stream: Any, descriptor: int) -> Any:
    # The object stays the same where it can: log handlers made in the server hold on to it.
    if isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor:
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
        return stream
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _settle(order: Order) -> None:
    os.environ |= order.environment
    sys.argv = list(order.argv)
    sys.orig_argv = [sys.executable, *order.argv]
    main: Any = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:
        main.__spec__ = None  # what starts this command again, as Lightning does for DDP, starts the script argv[0]
    if order.threads is not None:
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(order.threads))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(order.threads)
    if "numpy.random" in sys.modules:  # its global generator is a copy of the server's, the same in every child
        sys.modules["numpy.random"].seed()


def _not_loaded(preload: tuple[str, ...]) -> dict[str, str]:
    unknown = "it was started without"
    return {m: unknown for m in preload if m not in sys.modules} | fork_preload.errors


def _describe(error: BaseException, answer: Answer) -> int:
    """Fill in the answer, tell the output, and return the exit code."""
    answer.error = one_line(error)
    own = error.__traceback__
    shown = traceback.format_exception(type(error), error, own.tb_next if own else None)
    answer.traceback = "".join(shown)
    if isinstance(error, KeyboardInterrupt | SystemExit) and _was_interrupted(error):
        answer.interrupted = True
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    print(answer.traceback, end="", file=sys.stderr)
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 1


def _was_interrupted(error: BaseException | None) -> bool:
    # Lightning answers Ctrl-C by exit(1): the interrupt is in the context.
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _write(answer: Answer, path: Path) -> int:
    """Write the answer, whole or not at all; returns 1 where its value cannot be sent, 0 otherwise."""
    code = 0
    try:
        data = cloudpickle.dumps(answer)
    except Exception as error:  # pickling fails in as many ways as there are classes
        code = 1
        answer.value = None
        answer.error = f"the result cannot be pickled: {one_line(error)}"
        answer.traceback = traceback.format_exc()
        print(answer.traceback, end="", file=sys.stderr)
        data = cloudpickle.dumps(answer)
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)
    return code


def _end_with_driver() -> None:
    driver = parent_process()
    assert driver is not None
    connection.wait([driver.sentinel])
    os.killpg(0, signal.SIGKILL)


def _end_late(code: int) -> None:
    time.sleep(_LONGEST_END)
    os._exit(code)
