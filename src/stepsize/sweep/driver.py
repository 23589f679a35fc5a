"""Runs a sweep: claims trials, has them run, tells how they ended; leaves none running, however it ends itself."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from stepsize.errors import SweepStoppedError
from stepsize.sweep.job import Ended
from stepsize.sweep.plan import Claimed
from stepsize.sweep.runners import Failed, Runner, Started
from stepsize.sweep.storage import HEARTBEAT_SECONDS, StorageLostError
from stepsize.sweep.study import Study
from stepsize.sweep.sweep import Sweep

_LOOK_EVERY = 5.0  # seconds between two looks for trials whose workers are gone
_PATIENCE = 15.0  # seconds that running trials have to end cleanly


class Driver:
    """The loop of a sweep.

    Args:
        sweep: hands out trials.
        runner: runs them.
        max_failures: as in the options.
        told: called after each trial, with the trial, how it ended and whether it will be tried again.
        say: called with a line for the user.
    """

    def __init__(
        self,
        sweep: Sweep,
        runner: Runner,
        max_failures: int,
        told: Callable[[Started, Ended | Failed, bool], None],
        say: Callable[[str], None] = print,
    ) -> None:
        self.sweep, self.runner, self.max_failures, self.told, self.say = sweep, runner, max_failures, told, say
        self.received: int | None = None
        self._running: list[Started] = []
        self._failures = 0
        self._news: list[tuple[Started, Ended | Failed, bool]] = []
        self._insists = False
        self._ending = False
        self._waits = False

    def run(self, raises: bool) -> None:
        """Run until all trials have finished, or a signal comes: `received` then has its number.

        Args:
            raises: whether a signal has to interrupt what this process is doing, as where trials run inside it.

        Raises:
            SweepStoppedError: more trials failed than are allowed; what ran has ended.
        """
        with self._signals(raises), self._heartbeat():
            try:
                self._loop()
            except KeyboardInterrupt:
                self.received = self.received or signal.SIGINT
            finally:
                self._ending = True
                for started, ended in self.runner.stop(_PATIENCE, lambda: self._insists):
                    self._tell(started, ended)
                for left in list(self._running):
                    left.study.put_back(left.claimed)
                self._announce()
        if self._failures > self.max_failures and self.received is None:
            raise SweepStoppedError(
                f"failed trials: {self._failures}, more than sweep.max_failures={self.max_failures}; mend what they "
                "show, and give the same command again; what has finished is kept"
            )

    def _loop(self) -> None:
        looked = -_LOOK_EVERY
        while not self._stops():
            if time.monotonic() - looked >= _LOOK_EVERY:
                lost = sum(study.bury() for study in self.sweep.studies())
                if lost:
                    self.say(f"running trials whose workers are gone: {lost}; each is tried again, once")
                looked = time.monotonic()
            while len(self._running) < self.runner.workers and self._failures <= self.max_failures:
                found = self.sweep.claim()
                if found is None:
                    break
                self._running.append(self._started(*found))
                if self._stops():
                    return
            self._announce()
            if not self._running and (self._failures > self.max_failures or self.sweep.is_complete()):
                return
            for started, ended in self._ended():
                self._tell(started, ended)

    def _ended(self) -> list[tuple[Started, Ended | Failed]]:
        self._waits = True
        try:
            return [] if self._stops() else self.runner.ended(0.5)
        finally:
            self._waits = False

    def _started(self, study: Study, claimed: Claimed) -> Started:
        try:
            return self.runner.start(study, claimed)
        except BaseException:  # Ctrl-C too: whatever happens, the trial is not left running
            study.put_back(claimed)
            raise

    def _stops(self) -> bool:
        return self.received is not None

    def _tell(self, started: Started, ended: Ended | Failed) -> None:
        study, claimed = started.study, started.claimed
        seconds = round(ended.seconds if isinstance(ended, Ended) else time.monotonic() - started.at, 3)
        reports = ended.reports if isinstance(ended, Ended) else {}
        again = False
        match ended:
            case Ended(how="complete"):
                study.tell(claimed, ended.value, seconds, reports)
            case Ended(how="pruned"):
                study.tell(claimed, ended.value, seconds, reports, pruned=True)
            case Ended():
                study.tell_diverged(claimed, ended.reason, seconds, reports)
            case Failed() if self._ending or self._stops():
                study.put_back(claimed)
                again = True
            case Failed():  # one that was interrupted by someone else, or by itself, is as good as killed
                again = study.tell_failed(claimed, ended.reason, seconds, retry=ended.killed or ended.interrupted)
                self._failures += 1
        self._running.remove(started)
        self._news.append((started, ended, again))

    def _announce(self) -> None:
        """Say how trials ended, when the next ones have begun."""
        while self._news:
            self.told(*self._news.pop(0))

    @contextmanager
    def _signals(self, raises: bool) -> Iterator[None]:
        def receive(number: int, frame: FrameType | None) -> None:
            self._insists = self.received is not None
            self.received = number
            if raises and self._waits and not self._insists:  # never between claiming a trial and knowing it
                raise KeyboardInterrupt

        before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        ended = threading.Event()

        def beat() -> None:
            with suppress(StorageLostError):  # the loop meets it too, and says so
                while not ended.wait(HEARTBEAT_SECONDS):
                    for started in list(self._running):
                        started.study.beat(started.claimed.id)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
