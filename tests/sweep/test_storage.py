import ast
import importlib.util
import inspect
import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from stepsize.errors import ConfigError
from stepsize.sweep.lasting import LastingStorage
from stepsize.sweep.storage import StorageLostError, check, connect, fail_stale_trials, file_url, reconnect, shown

_CHILD = "import os, runpy; os.environ.update(environment); answers.put(runpy.run_path(path)[name](gate, *arguments))"


def in_processes(number: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function` returns in each of several children of a fork server, which pass the gate together."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "psycopg", "alembic.command", "stepsize.sweep.storage"])
    gate, answers = context.Barrier(number), context.SimpleQueue()
    room = {
        "environment": {key: value for key, value in os.environ.items() if key.startswith("PG")},
        "path": __file__,
        "name": function.__name__,
        "arguments": arguments,
        "gate": gate,
        "answers": answers,
    }
    children = [context.Process(target=exec, args=(_CHILD, room)) for _ in range(number)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * number
    return [answers.get() for _ in children]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, of either kind."""
    makers = {"sqlite": lambda: file_url(tmp_path), "postgresql": lambda: request.getfixturevalue("postgresql").url}
    return str(makers[request.param]())


def new_study(storage: RDBStorage) -> int:
    return storage.create_new_study([StudyDirection.MINIMIZE], "study")


def queue(storage: RDBStorage, study_id: int, number: int = 1) -> list[int]:
    return [storage.create_new_trial(study_id, create_trial(state=TrialState.WAITING)) for _ in range(number)]


def age_heartbeats(storage: RDBStorage) -> None:
    with storage.engine.begin() as connection:
        connection.execute(update(models.TrialHeartbeatModel).values(heartbeat=models.datetime.datetime(2000, 1, 1)))


def lose_next_answer(storage: RDBStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next transaction is committed, but its connection breaks before that is told."""
    dialect = storage.engine.dialect
    commit = dialect.do_commit
    error: Any = {"sqlite": sqlite3.OperationalError, "postgresql": psycopg.errors.AdminShutdown}[dialect.name]("cut")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR

    def commit_and_break(connection: Any) -> None:
        monkeypatch.setattr(dialect, "do_commit", commit)
        commit(connection)
        raise error

    monkeypatch.setattr(dialect, "do_commit", commit_and_break)


# ---- addresses


def test_a_file_is_made_where_the_address_says_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "a {b} 100%41 ?#c=é"
    folder.mkdir()
    assert connect(file_url(folder)).get_all_studies() == []
    assert [path.name for path in folder.iterdir()] == ["study.db"]


def test_a_plain_folder_is_spelled_out_in_its_address() -> None:
    assert file_url(Path("/runs/sweeps/lr")) == "sqlite:////runs/sweeps/lr/study.db"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("study.db", "must be the address of a database"),
        ("", "must be the address of a database"),
        ("postgresql://me@host:port/sweeps", "must be the address of a database"),
        ("mysql://me@host/sweeps", "got mysql://"),
        ("postgresql+psycopg2://me@host/sweeps", r"got postgresql\+psycopg2://"),
        ("postgresql://me@host", "names no database"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:///file:x?mode=memory&uri=true", "must name a file"),
    ],
)
def test_an_address_that_cannot_work_is_refused_in_one_line(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^sweep.storage: .*{message}.*$") as caught:
        check(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host/sweeps",
        "postgres://me:secret@host/sweeps",
        "postgresql://me:sec@secret@host/sweeps",
        "postgresql://me:12/secret@host/sweeps",
        "postgresql://me@host/sweeps?password=secret",
        "postgresql://me@host/sweeps?sslmode=require&sslpassword=secret",
        "postgresql://me:secret:secret@[host/sweeps",
        "mysql://me:secret@host/sweeps",
    ],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(url)
    assert "secret" not in str(caught.value) + shown(url)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_refusal_of_a_password_says_where_it_belongs() -> None:
    with pytest.raises(
        ConfigError, match=r"must hold no password; libpq reads the password from PGPASSWORD or ~/.pgpass"
    ):
        check("postgresql://me:secret@host/sweeps")


def test_a_missing_driver_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs psycopg: pip install 'stepsize\[postgresql\]'"):
        check("postgresql://me@host/sweeps")


@pytest.mark.parametrize("word", ["postgresql", "postgres", "postgresql+psycopg"])
def test_each_word_for_postgresql_is_taken_and_shown_the_same(word: str) -> None:
    check(f"{word}://me@host:5433/sweeps?sslmode=require")
    assert shown(f"{word}://me@host:5433/sweeps?sslmode=require") == "postgresql://me@host:5433/sweeps"


def test_checking_makes_no_file(tmp_path: Path) -> None:
    check(file_url(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_relative_file_is_found_again_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened = connect("sqlite:///study.db")
    study = new_study(opened)
    monkeypatch.chdir("/")
    assert reconnect(opened.url).get_study_id_from_name("study") == study


# ---- opening


def open_together(gate: Any, url: str) -> int:
    gate.wait()
    return len(connect(url).get_all_studies())


def test_six_processes_open_an_empty_database_at_once(url: str) -> None:
    assert in_processes(6, open_together, url) == [0] * 6
    assert connect(url).get_current_version() == connect(url).get_head_version()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("postgresql://stepsize@127.0.0.1:1/sweeps", "Connection refused"),
        ("postgresql://stepsize@nowhere.invalid/sweeps", "nowhere.invalid"),
        ("sqlite:////nowhere/study.db", "unable to open database file"),
    ],
)
def test_a_storage_that_is_not_there_is_told_at_once_in_one_line(address: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=rf"^sweep.storage: {address} cannot be reached: .*{reason}") as caught:
        connect(address)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 15


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("notes " * 1000)
    with pytest.raises(ConfigError, match="cannot be reached: file is not a database"):
        connect(file_url(tmp_path))
    assert (tmp_path / "study.db").read_text() == "notes " * 1000


def test_tables_of_another_optuna_are_refused(url: str) -> None:
    opened = connect(url)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v99.0.0'")
    with pytest.raises(ConfigError, match=r"cannot be reached: .*no longer compatible with the table schema"):
        connect(url)


def test_an_absent_database_is_named(postgresql: Any) -> None:
    with pytest.raises(ConfigError, match=r'/absent cannot be reached: .*database "absent" does not exist'):
        connect(postgresql.url.rpartition("/")[0] + "/absent")


@pytest.mark.parametrize("given", ["wrong-one", ""])
def test_a_wrong_or_missing_password_is_told_with_where_it_belongs(
    postgresql: Any, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("PGPASSWORD", given)
    with pytest.raises(ConfigError, match=r"cannot be reached: .*password.* \(libpq reads the password from") as caught:
        connect(postgresql.url)
    assert "wrong-one" not in str(caught.value)


def test_the_password_is_nowhere(postgresql: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    opened = connect(postgresql.url)
    new_study(opened)
    everything = [repr(vars(opened)), str(opened.engine.url), repr(opened.engine), opened.url, caplog.text]
    assert postgresql.password not in " ".join(everything)
    assert opened.engine.url.password is None


# ---- transactions


def claim_all(gate: Any, url: str, trials: list[int]) -> list[int]:
    opened = reconnect(url)
    gate.wait()
    return [trial for trial in trials if opened.set_trial_state_values(trial, TrialState.RUNNING)]


def test_each_of_forty_trials_is_claimed_by_one_of_eight_processes(url: str) -> None:
    opened = connect(url)
    trials = queue(opened, new_study(opened), 40)
    claimed = in_processes(8, claim_all, url, trials)
    assert sorted(trial for one in claimed for trial in one) == trials


def create_five(gate: Any, url: str, study_id: int) -> list[int]:
    opened = reconnect(url)
    gate.wait()
    return [opened.get_trial(trial).number for trial in queue(opened, study_id, 5)]


def test_four_processes_number_their_trials_without_gap(url: str) -> None:
    opened = connect(url)
    created = in_processes(4, create_five, url, new_study(opened))
    assert sorted(number for one in created for number in one) == list(range(20))


def fail_stale(gate: Any, url: str) -> None:
    study = optuna.load_study(study_name="study", storage=reconnect(url))
    gate.wait()
    fail_stale_trials(study)


def test_a_killed_trial_is_queued_once_though_four_processes_notice(url: str) -> None:
    opened = connect(url)
    killed, alive = queue(opened, new_study(opened), 2)
    opened.set_trial_state_values(killed, TrialState.RUNNING)
    age_heartbeats(opened)
    opened.set_trial_state_values(alive, TrialState.RUNNING)
    in_processes(4, fail_stale, url)
    trials = opened.get_all_trials(1)
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]
    assert trials[2].system_attrs["failed_trial"] == 0


def test_a_killed_trial_is_queued_once_though_two_take_it_for_theirs_to_queue(url: str) -> None:
    opened = connect(url)
    study = optuna.create_study(study_name="study", storage=opened)
    killed = opened.get_trial(opened.create_new_trial(study._study_id))
    requeue: Any = opened.get_heartbeat_stale_trial_callback()
    requeue(study, killed)
    requeue(study, killed)
    assert [trial.state for trial in opened.get_all_trials(1)] == [TrialState.RUNNING, TrialState.WAITING]


def test_a_trial_killed_again_is_not_queued_a_second_time(tmp_path: Path) -> None:
    opened = connect(file_url(tmp_path))
    study = optuna.create_study(study_name="study", storage=opened)
    queue(opened, study._study_id)
    for trial in (1, 2):
        opened.set_trial_state_values(trial, TrialState.RUNNING)
        age_heartbeats(opened)
        fail_stale_trials(study)
    assert [trial.state for trial in opened.get_all_trials(1)] == [TrialState.FAIL] * 2


def test_a_claimed_trial_is_watched_from_the_start_also_when_it_was_put_back_before(url: str) -> None:
    opened = connect(url)
    study_id = new_study(opened)
    (trial,) = queue(opened, study_id)
    opened.set_trial_state_values(trial, TrialState.RUNNING)
    age_heartbeats(opened)
    assert opened._get_stale_trial_ids(study_id) == [trial]
    opened.set_trial_state_values(trial, TrialState.WAITING)
    opened.set_trial_state_values(trial, TrialState.RUNNING)
    assert opened._get_stale_trial_ids(study_id) == []


def test_nobody_is_called_dead_by_one_who_was_away_until_the_others_had_time_to_beat(tmp_path: Path) -> None:
    opened = connect(file_url(tmp_path), heartbeat_seconds=1, grace_seconds=2)
    study_id = new_study(opened)
    (trial,) = queue(opened, study_id)
    opened.set_trial_state_values(trial, TrialState.RUNNING)
    age_heartbeats(opened)
    time.sleep(1.1)
    assert opened._get_stale_trial_ids(study_id) == []
    time.sleep(0.95)
    assert opened._get_stale_trial_ids(study_id) == []
    time.sleep(0.95)
    assert opened._get_stale_trial_ids(study_id) == []
    time.sleep(0.2)
    assert opened._get_stale_trial_ids(study_id) == [trial]


# ---- a database that does not answer


def test_a_trial_is_created_once_though_the_answer_was_lost(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = connect(url)
    study_id = new_study(opened)
    lose_next_answer(opened, monkeypatch)
    trial = opened.create_new_trial(study_id)
    assert [each._trial_id for each in opened.get_all_trials(study_id)] == [trial]


def test_a_study_is_created_once_though_the_answer_was_lost(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = connect(url)
    lose_next_answer(opened, monkeypatch)
    study_id = new_study(opened)
    assert [study._study_id for study in opened.get_all_studies()] == [study_id]


def test_a_claim_is_kept_though_the_answer_was_lost(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = connect(url)
    (trial,) = queue(opened, new_study(opened))
    lose_next_answer(opened, monkeypatch)
    assert opened.set_trial_state_values(trial, TrialState.RUNNING)
    assert not connect(url).set_trial_state_values(trial, TrialState.RUNNING)


def test_a_value_is_told_once_though_the_answer_was_lost(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = connect(url)
    trial = opened.create_new_trial(new_study(opened))
    lose_next_answer(opened, monkeypatch)
    assert opened.set_trial_state_values(trial, TrialState.COMPLETE, [0.5])
    assert opened.get_trial(trial).value == 0.5
    with pytest.raises(UpdateFinishedTrialError):
        opened.set_trial_state_values(trial, TrialState.COMPLETE, [0.6])


def test_a_trial_put_back_and_claimed_by_another_stays_theirs_though_the_answer_was_lost(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, other = connect(url), connect(url)
    trial = opened.create_new_trial(new_study(opened))
    lose_next_answer(opened, monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda _: other.set_trial_state_values(trial, TrialState.RUNNING))
    assert opened.set_trial_state_values(trial, TrialState.WAITING)
    assert opened.get_trial(trial).state == TrialState.RUNNING


def test_a_parameter_and_a_report_are_stored_once_though_the_answers_were_lost(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = connect(url)
    trial = opened.create_new_trial(new_study(opened))
    lose_next_answer(opened, monkeypatch)
    opened.set_trial_param(trial, "lr", 0.1, FloatDistribution(0, 1))
    lose_next_answer(opened, monkeypatch)
    opened.set_trial_intermediate_value(trial, 10, 0.5)
    stored = opened.get_trial(trial)
    assert (stored.params, stored.intermediate_values) == ({"lr": 0.1}, {10: 0.5})


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_restart_amid_two_hundred_calls_loses_and_repeats_nothing(postgresql: Any, how: signal.Signals) -> None:
    opened = connect(postgresql.url)
    study_id = new_study(opened)
    restart = threading.Timer(0.3, postgresql.restart, [how])
    restart.start()
    told = {}
    for _ in range(50):
        (trial,) = queue(opened, study_id)
        assert opened.set_trial_state_values(trial, TrialState.RUNNING)
        opened.set_trial_user_attr(trial, "made", trial)
        told[trial] = opened.set_trial_state_values(trial, TrialState.COMPLETE, [float(trial)])
        time.sleep(0.02)
    restart.join()
    stored = connect(postgresql.url).get_all_trials(study_id)
    assert [trial.number for trial in stored] == list(range(50))
    assert {trial._trial_id: trial.value == trial.user_attrs["made"] for trial in stored} == told


def test_a_connection_cut_while_idle_is_replaced_without_a_word(
    postgresql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    opened = connect(postgresql.url)
    study_id = new_study(opened)
    caplog.clear()
    postgresql.restart()
    assert opened.get_study_name_from_id(study_id) == "study"
    assert caplog.records == []


@pytest.mark.parametrize("error", [psycopg.errors.DeadlockDetected, psycopg.errors.DiskFull])
def test_a_call_refused_for_a_reason_that_passes_is_repeated(
    postgresql: Any, monkeypatch: pytest.MonkeyPatch, error: type[psycopg.Error]
) -> None:
    opened = connect(postgresql.url)
    study_id = new_study(opened)
    commit = opened.engine.dialect.do_commit

    def refuse_once(connection: Any) -> None:
        monkeypatch.setattr(opened.engine.dialect, "do_commit", commit)
        raise error("later")

    monkeypatch.setattr(opened.engine.dialect, "do_commit", refuse_once)
    opened.set_study_user_attr(study_id, "made", "once")
    assert opened.get_study_user_attrs(study_id) == {"made": "once"}


def test_a_storage_that_stays_away_is_given_up_after_one_line(
    postgresql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    opened = connect(postgresql.url, retry_seconds=1)
    study_id = new_study(opened)
    caplog.clear()
    postgresql.stop()
    started = time.monotonic()
    with pytest.raises(StorageLostError, match=r"^the storage has not answered for 1 s: .*refused"):
        queue(opened, study_id)
    assert 1 <= time.monotonic() - started < 3
    assert [record.getMessage() for record in caplog.records] == ["the storage does not answer; trying for another 1 s"]
    postgresql.start()
    assert len(queue(opened, study_id)) == 1


def test_one_who_joins_a_running_sweep_waits_for_the_database(postgresql: Any) -> None:
    study_id = new_study(connect(postgresql.url))
    postgresql.stop()
    start = threading.Timer(0.5, postgresql.start)
    start.start()
    joined = reconnect(postgresql.url)
    start.join()
    assert joined.get_study_name_from_id(study_id) == "study"


def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    opened = connect(file_url(tmp_path), retry_seconds=5)
    study_id = new_study(opened)
    lock = sqlite3.connect(tmp_path / "study.db", isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.5, lock.rollback)
    release.start()
    started = time.monotonic()
    assert len(queue(opened, study_id)) == 1
    assert time.monotonic() - started > 0.4
    release.join()
    lock.close()


def test_an_error_that_would_come_again_is_not_repeated(url: str) -> None:
    opened = connect(url)
    with opened.engine.connect() as connection, pytest.raises(Exception, match="no_such_table") as caught:
        connection.exec_driver_sql("SELECT * FROM no_such_table")
    assert caught.type.__module__ == OperationalError.__module__


def test_every_call_that_opens_a_transaction_is_lasting() -> None:
    opening = {
        function.name
        for function in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(RDBStorage))))
        if isinstance(function, ast.FunctionDef) and "_create_scoped_session" in _called_by(function)
    }
    assert len(opening) > 20
    assert [name for name in opening if getattr(LastingStorage, name) is getattr(RDBStorage, name)] == []


def _called_by(function: ast.FunctionDef) -> set[str]:
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {call.id for call in calls if isinstance(call, ast.Name)}


def test_the_module_needs_no_torch() -> None:
    source = "import sys, stepsize.sweep.storage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source]).returncode == 0
