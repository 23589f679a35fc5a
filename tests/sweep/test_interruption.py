"""A sweep that is interrupted or killed leaves no trial running, and the same command goes on from there."""

import signal
import time

import pytest
from commands import SWEEP, Commands, Ended, Running, until
from optuna.trial import TrialState

WORDS = (*SWEEP, "x=interval(0,1)", "seen=seen", "hydra.sweeper.n_trials=4", "hydra.sweeper.workers=2", "hold=hold")
ALL = [TrialState.COMPLETE] * 4


def states(commands: Commands) -> list[TrialState]:
    return [t.state for t in commands.trials()]


def begin(commands: Commands, *words: str, running: int = 2) -> Running:
    """A sweep whose trials wait for the file `hold` to vanish; returns as soon as they run."""
    (commands.folder / "hold").touch()
    sweep = commands.start(*WORDS, *words)
    until(lambda: len(commands.numbers()) == running or sweep.process.poll() is not None)
    return sweep


def go_on(commands: Commands, *words: str) -> Ended:
    (commands.folder / "hold").unlink()
    return commands.run(*WORDS, *words)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_puts_back_what_runs_and_the_same_command_finishes_exactly(
    commands: Commands, number: signal.Signals, code: int
) -> None:
    sweep = begin(commands)
    sweep.signal(number)
    ended = sweep.end()
    assert ended.code == code, ended.err
    assert states(commands) == [TrialState.WAITING] * 4
    assert (commands.folder / "out/report.html").exists()
    assert "trial 0: interrupted; it waits for the next time\n" in ended.out
    assert "interrupted; to go on: python " in ended.out.splitlines()[-1]
    assert "Traceback" not in ended.text
    commands.wait_for_none_left()
    before = {t.number: t.params for t in commands.trials()[:2]}
    assert go_on(commands).code == 0
    assert states(commands) == ALL
    assert {t.number: t.params for t in commands.trials()[:2]} == before
    assert sorted(commands.numbers("ended")) == [0, 1, 2, 3]
    assert (commands.folder / "out/0.interrupted-1/output.log").exists()


def test_a_second_signal_ends_at_once_what_does_not_end(commands: Commands) -> None:
    sweep = begin(commands, "always=deaf")
    sweep.signal(signal.SIGINT)
    time.sleep(1)
    assert sweep.process.poll() is None
    sweep.signal(signal.SIGINT)
    began = time.monotonic()
    assert sweep.end().code == 130
    assert time.monotonic() - began < 12  # the driver's patience with the first signal is 15 s
    assert states(commands) == [TrialState.WAITING] * 4
    commands.wait_for_none_left()


@pytest.mark.slow
def test_what_does_not_end_after_a_signal_is_killed_in_time(commands: Commands) -> None:
    sweep = begin(commands, "always=deaf")
    sweep.signal(signal.SIGTERM)
    assert sweep.end().code == 143
    assert states(commands) == [TrialState.WAITING] * 4
    commands.wait_for_none_left()


def test_after_sigkill_the_next_command_fails_the_dead_trials_at_once_and_retries_each_once(commands: Commands) -> None:
    sweep = begin(commands)
    sweep.signal(signal.SIGKILL)
    sweep.end()
    assert states(commands)[:2] == [TrialState.RUNNING] * 2
    until(lambda: not commands.processes(), timeout=30)
    assert commands.numbers("ended") == []
    began = time.monotonic()
    ended = go_on(commands)
    assert time.monotonic() - began < 50  # a heartbeat is overdue after 60 s
    assert ended.code == 0, ended.err
    found = commands.trials()
    assert [t.state for t in found[:2]] == [TrialState.FAIL] * 2
    assert [t.state for t in found[2:]] == ALL
    retries = {t.system_attrs["failed_trial"]: t.params for t in found if "failed_trial" in t.system_attrs}
    assert retries == {0: found[0].params, 1: found[1].params}
    assert {row["reason"] for row in commands.rows()[:2]} == {"its worker was killed"}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_interrupts_a_trial_inside_the_sweeps_own_process(
    commands: Commands, number: signal.Signals, code: int
) -> None:
    sweep = begin(commands, "hydra/launcher=basic", running=1)
    sweep.signal(number)
    ended = sweep.end()
    assert ended.code == code
    assert "Traceback" not in ended.text
    assert set(states(commands)) == {TrialState.WAITING}
    assert go_on(commands, "hydra/launcher=basic").code == 0
    assert states(commands) == ALL


def test_a_signal_while_the_sweep_starts_leaves_nothing_running(commands: Commands) -> None:
    sweep = commands.start(*WORDS)
    until(lambda: (commands.folder / "out/study.db").exists())
    sweep.signal(signal.SIGTERM)
    ended = sweep.end()
    assert ended.code in (143, -signal.SIGTERM)
    assert "Traceback" not in ended.text
    until(lambda: not commands.processes(), timeout=30)
    assert commands.run(*WORDS).code == 0
    assert states(commands) == ALL
