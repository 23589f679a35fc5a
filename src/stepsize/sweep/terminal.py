"""What a sweep shows while it runs: a bar over trials, a line for each as it ends, the table at the end."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage
from tqdm import tqdm

from stepsize.sweep.best import best_arm
from stepsize.sweep.job import Ended
from stepsize.sweep.notation import number, rate
from stepsize.sweep.read import read
from stepsize.sweep.results import SweepResult
from stepsize.sweep.runners import Failed, Started
from stepsize.sweep.sweep import Sweep
from stepsize.sweep.table import table, trial_line

_WIDEST = 140  # columns of a line from a trial's log, where the whole of it stands


class Terminal:
    """The lines go to stdout, and the bar to stderr, where that is a terminal.

    Args:
        sweep: what is shown.
        storage: of its studies.
    """

    def __init__(self, sweep: Sweep, storage: BaseStorage) -> None:
        self.sweep, self.storage = sweep, storage
        for study in sweep.searches:
            study.on_widened = self._widened
        finished, wanted = sweep.progress()
        self._bar = tqdm(
            total=wanted, initial=finished, unit="trial", dynamic_ncols=True, smoothing=0.1, disable=None, leave=False
        )

    def told(self, started: Started, ended: Ended | Failed, again: bool) -> None:
        """A trial has ended."""
        result = read(self.storage, self.sweep.about.name)
        about, number_ = started.study.plan.about["arm"], started.claimed.number
        arm_name = about["name"]
        if about["confirms"] is not None:
            value = f"{self.sweep.options.metric} {number(ended.value)}" if isinstance(ended, Ended) else ended.reason
            self.say(f"{arm_name or 'best'}, seed {started.claimed.params['seed']}: {value}")
        else:
            arm = next(a for a in result.arms if a.name == arm_name)
            trial = next(t for t in arm.trials if t.number == number_)
            if isinstance(ended, Failed) and ended.interrupted:
                self.say(f"{arm.name or 'trial'} {number_}: interrupted; it waits for the next time")
            else:
                self.say(trial_line(result, arm, trial) + ("; it is tried again" if again else ""))
        if isinstance(ended, Failed) and ended.tail and not ended.interrupted:
            self.say("\n".join(f"    {_cut(line)}" for line in ended.tail.splitlines()))
        finished, wanted = self.sweep.progress()
        self._bar.total = wanted
        self._bar.update(finished - self._bar.n)
        best = best_arm(result)
        if best is not None:
            found = result.best(best)
            assert found is not None
            self._bar.set_postfix_str(f"best {number(found.value)}" + (f" ({best.name})" if best.name else ""))

    def _widened(self, event: Mapping[str, Any]) -> None:
        self.say(
            f"the best learning rate lies at the {event['end']} end: {rate(event['low'])} to {rate(event['high'])} is "
            f"searched now, by {event['trials']} more"
        )

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def end(self, result: SweepResult, left: Sequence[Path]) -> None:
        """The table, and where the files are."""
        self._bar.close()
        print(table(result))
        arm = best_arm(result)
        if arm is not None and arm.command:
            print(f"To repeat the best: {arm.command}")
        for path in left:
            print(path)


def _cut(line: str) -> str:
    return line if len(line) <= _WIDEST else line[: _WIDEST - 1] + "…"
