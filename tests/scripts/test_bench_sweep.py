import subprocess
import sys

import pytest

from stepsize.config import CONF

SCRIPT = CONF.parent / "scripts" / "bench_sweep.py"


def bench(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_all_sides_run_the_trials_and_are_compared() -> None:
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    done = bench("--trials", "2", "--turn", "2", "--words", "data=digits", "model=mlp", "trainer=cpu", *short)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].startswith("2 trials of data=digits model=mlp")
    seconds = {line[:14].strip(): float(line[14:].split()[0]) for line in lines if "s a trial" in line}
    assert sorted(seconds) == ["fork server", "in process", "plain process"]
    assert all(s > 0 for s in seconds.values())
    more, ratio = (float(line.split(":")[1].split()[0]) for line in lines if line.startswith("fork server:"))
    assert more == pytest.approx(seconds["plain process"] / seconds["fork server"], rel=0.2)  # of what is rounded
    assert ratio == pytest.approx(seconds["fork server"] / seconds["in process"], rel=0.2)


@pytest.mark.parametrize("turn", ["1", "3"])
def test_a_turn_that_cannot_be_timed_is_refused(turn: str) -> None:
    done = bench("--trials", "2", "--turn", turn)
    assert done.returncode == 2
    assert "--turn must be at least 2 and at most --trials" in done.stderr
