"""What a run does with signals: the first asks it to stop in order, a second one stops it at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import lightning as L

from stepsize.errors import RunInterrupted

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """Stands in the place of Lightning's own connector, which exits with code 0 and saves nothing.

    Signals are heard in a thread: Python calls a handler only between two operations of the main thread, which may wait
    inside one for another process that is gone.

    Args:
        trainer: asked for its processes.
        listens: whether signals come here at all; not in a trial, which the sweep stops in its own way.
    """

    received_sigterm = False  # Lightning asks for it, and would end a run in its own way

    def __init__(self, trainer: L.Trainer, *, listens: bool) -> None:
        self.trainer = trainer
        self.listens = listens
        self.received = 0  # number of the signal that asked the run to stop
        self._trains = False

    def register_signal_handlers(self) -> None:
        """Ask to stop in order from now on; Lightning calls this when all is loaded and training is to begin."""
        self._trains = True

    def teardown(self) -> None:
        """Go on: what comes between training and the test stops the test."""

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Listen as long as the block runs; before training begins, any signal stops it at once."""
        if not self.listens or threading.current_thread() is not threading.main_thread():
            yield
            return
        ear, mouth = os.pipe()
        os.set_blocking(mouth, False)
        before = {number: signal.signal(number, _leave_it_to_the_thread) for number in STOPPING}
        wakeup = signal.set_wakeup_fd(mouth)
        threading.Thread(target=self._listen, args=(ear,), name="signals", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(mouth)

    def _listen(self, ear: int) -> None:
        while heard := os.read(ear, 1):
            if heard[0] in STOPPING:
                self._receive(heard[0])
        os.close(ear)

    def _receive(self, number: int) -> None:
        if self.received:
            self._end_at_once(number)
        name = signal.Signals(number).name
        if not self._trains:
            self._say(f"{name}: stopped before training began")
            self._end_at_once(number)
        self.received = number
        self._say(f"{name}: stopping after this step; once more stops at once")

    def _say(self, text: str) -> None:
        if self.trainer.is_global_zero:
            os.write(2, f"\n{text}\n".encode())  # nothing else may be in the middle of writing to it

    def _end_at_once(self, number: int) -> None:
        for process in getattr(self.trainer.strategy.launcher, "procs", ()):  # those that Lightning has started
            process.kill()
        os._exit(RunInterrupted.exit_code(number))


def _leave_it_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Be a handler: only for a signal that has one is the thread told."""


def _forget() -> None:
    """Let a forked process, such as a worker that loads data, hear its own signals and not tell this one's thread."""
    if signal.getsignal(signal.SIGTERM) is _leave_it_to_the_thread:
        signal.set_wakeup_fd(-1)
        for number in STOPPING:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)
