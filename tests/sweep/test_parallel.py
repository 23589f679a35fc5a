"""Many workers and one study: the count is exact, nothing runs twice, and nobody waits for the others."""

import signal
from collections import Counter
from typing import Any

import pytest
from commands import SWEEP, Commands, Running, until
from optuna.trial import TrialState

N = 24
WORDS = (*SWEEP, "x=interval(0,1)", "seen=seen", f"hydra.sweeper.n_trials={N}", "seconds=0.3", "reports=2")


def start_together(commands: Commands, url: str, count: int = 4) -> list[Running]:
    """Identical commands at once on an empty storage; returns when one of them is at trial 5, which does not end."""
    (commands.folder / "hold").touch()
    sweeps = [commands.start(*WORDS, "hold=hold", "held=[5]", f"hydra.sweeper.storage='{url}'") for _ in range(count)]
    until(lambda: 5 in commands.numbers())
    return sweeps


def kill_the_one_at_trial_5(commands: Commands, sweeps: list[Running], url: str) -> None:
    pid = commands.trials(url)[5].user_attrs["runner"]["pid"]
    (victim,) = (sweep for sweep in sweeps if sweep.process.pid == pid)
    victim.signal(signal.SIGKILL)
    victim.process.wait()
    (commands.folder / "hold").unlink()


def check(commands: Commands, sweeps: list[Running], url: str) -> None:
    codes = Counter(sweep.end(240).code for sweep in sweeps)
    assert codes == {0: len(sweeps) - 1, -signal.SIGKILL: 1}, [sweep.err.read_text()[-500:] for sweep in sweeps]
    trials = commands.trials(url)
    states = Counter(t.state for t in trials)
    assert (states[TrialState.COMPLETE], states[TrialState.FAIL], states[TrialState.RUNNING]) == (N, 1, 0)
    (retry,) = (t for t in trials if "failed_trial" in t.system_attrs)
    assert (retry.system_attrs["failed_trial"], retry.state) == (5, TrialState.COMPLETE)
    assert (trials[5].state, trials[5].params) == (TrialState.FAIL, retry.params)
    assert set(Counter(commands.numbers()).values()) == {1}
    assert sorted(commands.numbers("ended")) == [t.number for t in trials if t.state == TrialState.COMPLETE]
    commands.wait_for_none_left()


@pytest.mark.slow
def test_four_commands_share_a_postgresql_that_restarts_as_one_is_killed(commands: Commands, postgresql: Any) -> None:
    sweeps = start_together(commands, postgresql.url)
    kill_the_one_at_trial_5(commands, sweeps, postgresql.url)
    postgresql.restart()
    check(commands, sweeps, postgresql.url)
    assert postgresql.password not in commands.text_of_files()


@pytest.mark.slow
def test_four_commands_share_an_sqlite_file_while_one_is_killed(commands: Commands) -> None:
    url = f"sqlite:///{commands.folder}/shared.db"
    sweeps = start_together(commands, url)
    kill_the_one_at_trial_5(commands, sweeps, url)
    check(commands, sweeps, url)


def test_a_worker_takes_the_next_trial_while_another_is_at_a_slow_one(commands: Commands) -> None:
    hold = commands.folder / "hold"
    hold.touch()
    words = (*SWEEP, "x=interval(0,1)", "seen=seen", "hydra.sweeper.n_trials=6", "hydra.sweeper.workers=3")
    sweep = commands.start(*words, "hold=hold", "held=[0]")
    until(lambda: len(commands.numbers("ended")) == 5 or sweep.process.poll() is not None)
    assert sorted(commands.numbers("ended")) == [1, 2, 3, 4, 5]
    assert sweep.process.poll() is None
    hold.unlink()
    assert sweep.end().code == 0


def test_a_storage_with_a_password_in_its_address_is_refused(commands: Commands) -> None:
    url = "postgresql://me:a-secret@127.0.0.1:1/sweeps"
    ended = commands.run(*WORDS, f"hydra.sweeper.storage='{url}'")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("sweep.storage: must hold no password; libpq reads the password from PGPASSWORD")
    assert "a-secret" not in commands.text_of_files()
    assert not (commands.folder / "out").exists()


def test_a_storage_that_cannot_be_reached_is_answered_in_one_line(commands: Commands) -> None:
    ended = commands.run(*WORDS, "hydra.sweeper.storage='postgresql://me@127.0.0.1:1/sweeps'")
    assert (ended.code, ended.out) == (1, "")
    first, *rest = ended.err.splitlines()
    assert first.startswith("sweep.storage: postgresql://me@127.0.0.1:1/sweeps cannot be reached: connection")
    assert [line for line in rest if not line.startswith("Set the environment variable HYDRA_FULL_ERROR=1")] == [""]
    assert not (commands.folder / "out").exists()
