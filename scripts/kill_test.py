"""Kills training at random moments, gives the same command again, and compares with a run that nobody killed.

    python scripts/kill_test.py                        # 200 kills, 25 of them of `python train.py` itself
    python scripts/kill_test.py --kills 2000 --seed 1
    python scripts/kill_test.py --cases accumulated --kills 50

Each case is a command with `resume=auto` that may lose a few steps. A process of it, with all that it has started, is
killed by SIGKILL: half of the times at a moment drawn over the whole length of the run, else once `kill_probe.py` says
that it takes a step, validates, or copies, writes, syncs or names a checkpoint. After each kill every checkpoint in the
folder must be loadable, none may have vanished, the last must be the one last written, its best must be there, and the
steps that are lost no more than the case allows. Then the same command must begin from exactly that checkpoint. After a
few kills the run is left alone, and all that it ends with must be what the uninterrupted one ended with: every leaf of
the last checkpoint, result.json, and each point of each curve.

Most processes are forked from one that has loaded torch and Lightning already, and run train.py as `python` does;
`--plain` is the share of the kills that are of real ones. Exit code 1, and a line each, for what does not hold.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from kill_outcome import differences, steps
from kill_probe import Activity, Board, Stage
from kill_process import Forked, Plain
from stepsize.sweep.fork_server import ForkServer, tail

# The steps that may be lost, and a command.
CASES = {
    "mlp": (7, "data=digits model=mlp model.widths=[512,512] model.dropout=0.1 trainer.max_epochs=5"),
    # 30 batches are no multiple of 4: some validations come amid a step.
    "accumulated": (
        5,
        "data=digits data.batch_size=8 model=mlp model.dropout=0.2 trainer.accumulate_grad_batches=4 "
        "trainer.val_check_interval=30 trainer.max_epochs=5",
    ),
    "max_steps": (10, "data=digits data.crop_padding=1 model=mlp model.widths=[1024,1024] trainer.max_steps=150"),
    "schedule_free": (
        6,
        "data=mnist1d data.max_shift=2 model=convnet model.widths=[16,32] model.dropout=0.1 "
        "optimizer=schedule_free_adamw schedule=constant trainer.max_epochs=3",
    ),
}
AIMS = ("VALIDATION", "WRITE", "STEP", "SYNC", "VALIDATION", "NAME", "COPY", "TEST")
PRELOAD = ("kill_probe", "stepsize.run", "stepsize.check", "tensorboard", "sklearn.datasets", "mnist1d.data")
PER_RUN = (4, 10)  # kills before a run is left alone
AHEAD = 30  # steps, at most, from where a process began to where it is aimed at
SLACK = 1e-3  # seconds, at most, from what is aimed at to the kill
POLL = 1e-4  # seconds between two looks
LONGEST = 300.0  # seconds; a process that takes longer hangs


class Tally:
    """What has been seen: the kills by what they hit, how many were of real commands, what each lost, what failed."""

    def __init__(self) -> None:
        self.kills: Counter[tuple[Activity, Stage]] = Counter()
        self.plain = 0
        self.files = 0  # checkpoints that were loaded
        self.equal = 0  # killed runs that ended as the uninterrupted one
        self.lost: list[tuple[int, int]] = []  # by each kill: steps, of how many at most
        self.failures: list[str] = []

    def __str__(self) -> str:
        lines = [f"{'checkpoint':12}" + "".join(f"{a.name.lower():>12}" for a in Activity) + f"{'all':>8}"]
        for stages in (*((stage,) for stage in Stage), tuple(Stage)):
            row = [sum(self.kills[activity, stage] for stage in stages) for activity in Activity]
            name = stages[0].name.lower() if len(stages) == 1 else "all"
            lines.append(f"{name:12}" + "".join(f"{n:12}" for n in row) + f"{sum(row):8}")
        lines.append(f"{self.kills.total()} kills, {self.plain} of python train.py; {self.files} checkpoints loaded")
        for most in sorted({most for _, most in self.lost}):
            lost = [steps for steps, of in self.lost if of == most]
            lines.append(f"steps lost where {most} may be: at most {max(lost)}, mean {sum(lost) / len(lost):.1f}")
        lines.append(f"{self.equal} killed runs ended as the uninterrupted one; {len(self.failures)} failures")
        return "\n".join(lines)


class Runs:
    """Starts and kills the processes of runs, and tallies what they leave.

    Args:
        folder: for all runs.
        server: forks most processes.
        plain: share of the kills that are of processes which `python` runs.
        seed: of the moments.
    """

    def __init__(self, folder: Path, server: ForkServer, plain: float, seed: int) -> None:
        self.folder = folder
        self.server = server
        self.plain = plain
        self.tally = Tally()
        self._draw = random.Random(seed)
        self._board = Board(folder / "board")
        self._aims = itertools.cycle(AIMS)
        self._seconds: dict[tuple[str, bool], float] = {}  # that an uninterrupted run takes, forked or plain
        self._made = 0

    def run(self, name: str, most: int, progress: Callable[[int], object]) -> None:
        """Kill a run of a case a few times, at most `most`; then let it end and compare."""
        if (name, True) not in self._seconds:
            self._uninterrupted(name)
        self._made += 1
        folder = self.folder / f"{name}{self._made}"
        found: dict[str, int] = {}
        kills = self.tally.kills.total()
        for _ in range(min(most, self._draw.randint(*PER_RUN))):
            is_plain = self.tally.plain < self.plain * (self.tally.kills.total() + 1)
            process = self._start(name, folder, is_plain)
            self._shoot(process, self._moment(self._seconds[name, is_plain]))
            if process.exit_code != -signal.SIGKILL:
                break
            self.tally.plain += is_plain
            found = self._judge(name, folder, found)
            progress(1)
        else:
            process = self._start(name, folder, is_plain=False)
            self._shoot(process, lambda: False)
        self.tally.equal += self._compare(name, folder, process) and self.tally.kills.total() > kills

    def _uninterrupted(self, name: str) -> None:
        for is_plain, folder in ((True, self.folder / name), (False, self.folder / f"{name}0")):
            started = time.monotonic()
            process = self._start(name, folder, is_plain)
            if process.exit_code:
                raise SystemExit(f"{name} does not run: {tail(folder.with_suffix('.log'))}")
            self._seconds[name, is_plain] = time.monotonic() - started
        self._compare(name, folder, process)

    def _start(self, name: str, folder: Path, is_plain: bool) -> Plain | Forked:
        most, words = CASES[name]
        self._board.clear()
        probe = f"+callbacks.probe={{_target_:kill_probe.Probe,path:{self.folder / 'board'}}}"
        every = f"callbacks.checkpoint.every_n_steps={most}"
        command = [*words.split(), "trainer=cpu", every, f"run_dir={folder}", "resume=auto", probe]
        output = folder.with_suffix(".log")
        return Plain(command, output) if is_plain else Forked(self.server, command, output)

    def _moment(self, seconds: float) -> Callable[[], bool]:
        """Says when to kill: at a random moment within `seconds`, or at what is aimed at next."""
        if self._draw.random() < 0.5:
            moment = time.monotonic() + self._draw.uniform(0, seconds)
            return lambda: time.monotonic() >= moment
        aim, board = next(self._aims), self._board
        ahead = 0 if aim == "TEST" else self._draw.randint(0, AHEAD)
        return lambda: 0 <= board["resumed"] <= board["step"] - ahead and aim in [doing.name for doing in board.doing]

    def _shoot(self, process: Plain | Forked, is_due: Callable[[], bool]) -> None:
        """Wait for the end of a process; kill it as soon as it is due."""
        started = time.monotonic()
        try:
            while not process.has_ended and not is_due():
                if time.monotonic() - started > LONGEST:
                    self.tally.failures.append(f"hangs: {self._board}")
                    break
                time.sleep(POLL)
            time.sleep(self._draw.uniform(0, SLACK))
        finally:  # also where Ctrl-C ends the wait
            process.kill()

    def _judge(self, name: str, folder: Path, before: dict[str, int]) -> dict[str, int]:
        """Tally a kill; returns the steps that each checkpoint holds, by its name, where `before` says those before."""
        board, tally = self._board, self.tally
        tally.kills[board.doing] += 1
        said = f"{folder.name}, kill {tally.kills.total()}, {board}"
        try:
            found = steps(folder)
        except RuntimeError as error:
            tally.failures.append(f"{said}: {error}")
            return before
        tally.files += len(found)
        if gone := before.keys() - found.keys():
            tally.failures.append(f"{said}: vanished: {', '.join(gone)}")
        began, last = before.get("last.ckpt", 0), found.get("last.ckpt", 0)
        if board["resumed"] not in (-1, began):
            tally.failures.append(f"{said}: went on from {board['resumed']} and not from {began}")
        begun, written = max(board["begun"], began), max(board["written"], began)
        if not written <= last <= begun:
            tally.failures.append(f"{said}: last.ckpt is at {last}, {written} had been written and {begun} begun")
        lost, most = max(board["step"], began) - last, CASES[name][0]
        tally.lost.append((lost, most))
        if lost > most:
            tally.failures.append(f"{said}: {lost} steps are lost")
        return found

    def _compare(self, name: str, folder: Path, process: Plain | Forked) -> bool:
        """Whether a run ended as the uninterrupted one; a failure where it did not."""
        if process.exit_code:
            unlike = [f"exit code {process.exit_code}: {tail(folder.with_suffix('.log'))}"]
        else:
            unlike = differences(self.folder / name, folder)
        if unlike:
            more = f" and {len(unlike) - 5} more" if len(unlike) > 5 else ""
            self.tally.failures.append(f"{folder.name}: {'; '.join(unlike[:5])}{more}")
            return False
        shutil.rmtree(folder)
        return True


def main() -> int:
    """Kill, print the counts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--cases", nargs="*", choices=[*CASES], default=[*CASES], help="default: all, in turn")
    parser.add_argument("--plain", type=float, default=0.125, help="share of the kills that are of python train.py")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes
    server = ForkServer(PRELOAD)
    folder = Path(tempfile.mkdtemp(prefix="stepsize-kills-"))
    started = time.monotonic()
    runs = Runs(folder, server, options.plain, options.seed)
    try:
        with tqdm(total=options.kills, unit="kill") as bar:
            for name in itertools.cycle(options.cases):
                runs.run(name, options.kills - bar.n, bar.update)
                bar.set_postfix_str(f"{len(runs.tally.failures)} failures")
                if bar.n >= options.kills:
                    break
    except KeyboardInterrupt:
        print("interrupted; so far:")
    finally:
        server.close()
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s\n{runs.tally}")
    for line in runs.tally.failures:
        print(line)
    if runs.tally.failures:
        print(f"the runs that failed lie in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
