"""Where a study is kept: an SQLite file for one machine, PostgreSQL for several.

The address is plain text without a password; libpq, which speaks to PostgreSQL, reads it from PGPASSWORD or ~/.pgpass.
"""

import importlib.util
import inspect
import random
import sqlite3
import time
import warnings
from pathlib import Path

from optuna import Study
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.storages import fail_stale_trials as _fail_stale_trials
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from stepsize.errors import ConfigError
from stepsize.sweep.connections import NoAnswerError, one_line
from stepsize.sweep.lasting import LastingStorage, StorageLostError

__all__ = ["StorageLostError", "check", "connect", "fail_stale_trials", "file_url", "reconnect", "shown"]

HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60
_CONNECT_SECONDS = 10  # until a host that drops packets counts as unreachable
_OPENING_SECONDS = 30  # for the race of those who create the tables of an empty database
_CREATED_BY_ANOTHER = ("23505", "42710", "42P07")  # PostgreSQL's codes: unique violation, duplicate object, table

_FORMS = "sqlite:////FOLDER/study.db or postgresql://USER@HOST/DATABASE"
_WHERE_PASSWORDS_BELONG = "libpq reads the password from PGPASSWORD or ~/.pgpass"


def file_url(folder: Path) -> str:
    """The address of the SQLite file that a sweep keeps in its own folder."""
    path = str(folder.resolve() / "study.db")
    return "sqlite:///" + path.replace("%", "%25").replace("?", "%3F")


def shown(url: str) -> str:
    """The address for logs: without password and query."""
    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        return "an unreadable address"
    if "@" in (parts.host or ""):  # the end of a password with an @ in it
        return "an unreadable address"
    if parts.get_backend_name() == "sqlite":
        return f"sqlite:///{parts.database}"
    clean = URL.create("postgresql", parts.username, None, parts.host, parts.port, parts.database)
    return clean.render_as_string()


def absolute(url: str) -> str:
    """The address as any process may use it, whatever folder it works in.

    Raises:
        ConfigError: as `check` does.
    """
    parts = _parsed(url)
    return url if parts.get_backend_name() != "sqlite" else parts.render_as_string()


def check(url: str) -> None:
    """Refuse an address that cannot work, before anything is made or reached.

    Raises:
        ConfigError: where it is no address of a database that is known, holds a password, means SQLite in memory, which
            no other process sees, or needs a driver that is not installed.
    """
    _parsed(url)


def connect(
    url: str,
    retry_seconds: float = 60,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
    grace_seconds: int = GRACE_SECONDS,
) -> LastingStorage:
    """Open a storage, and create its tables where there are none; several processes may do so at once.

    Args:
        url: as `check` allows it.
        retry_seconds: how long each later call is repeated while the storage does not answer.
        heartbeat_seconds: between two signs of life of a running trial.
        grace_seconds: without a sign of life, after which a running trial counts as killed.

    Raises:
        ConfigError: where the storage cannot be reached, at once: the one who starts a sweep is still looking.
    """
    options = (retry_seconds, heartbeat_seconds, grace_seconds)
    deadline = time.monotonic() + _OPENING_SECONDS
    while True:
        try:
            return _opened(_parsed(url), *options, is_known=False)
        except (NoAnswerError, SQLAlchemyError, StorageInternalError, RuntimeError, OSError) as error:
            if not _is_race(error) or time.monotonic() > deadline:
                raise ConfigError(f"sweep.storage: {shown(url)} cannot be reached: {_reason(error)}") from None
        time.sleep(random.uniform(0.02, 0.2))


def reconnect(
    url: str,
    retry_seconds: float = 60,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
    grace_seconds: int = GRACE_SECONDS,
) -> LastingStorage:
    """Open a storage that `connect` has opened before, in a process that takes part in a running sweep.

    Nothing is created or compared, and a storage that does not answer is waited for, `retry_seconds` at each call.
    The arguments are those of `connect`.
    """
    return _opened(_parsed(url), retry_seconds, heartbeat_seconds, grace_seconds, is_known=True)


def fail_stale_trials(study: Study) -> None:
    """Fail the running trials that give no sign of life, and queue each once more: what Optuna does, without a warning.

    Several processes may do so at once: a trial is queued again only once.
    """
    inspect.unwrap(_fail_stale_trials)(study)


def _opened(
    url: URL, retry_seconds: float, heartbeat_seconds: int, grace_seconds: int, is_known: bool
) -> LastingStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats are called so since 2021
        return LastingStorage(
            url.render_as_string(),
            retry_seconds,
            heartbeat_interval=heartbeat_seconds,
            grace_period=grace_seconds,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=1),
            engine_kwargs=_engine_arguments(url, retry_seconds),
            is_known=is_known,
        )


def _engine_arguments(url: URL, retry_seconds: float) -> dict[str, object]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": retry_seconds}}
    patience = {
        "connect_timeout": _CONNECT_SECONDS,
        "keepalives_idle": 30,  # notices within a minute that the other side has vanished
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "application_name": "stepsize",
    }
    return {
        "connect_args": {key: value for key, value in patience.items() if key not in url.query},
        "pool_pre_ping": True,  # a connection that a restart of the database has cut is replaced unseen
        "pool_size": 1,  # many processes share the server's 100 connections
        "max_overflow": 9,
    }


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # their messages may quote a part of a password
        raise ConfigError(f"sweep.storage: must be the address of a database, such as {_FORMS}") from None
    if url.password is not None or any("password" in key.lower() for key in url.query):
        raise ConfigError(f"sweep.storage: must hold no password; {_WHERE_PASSWORDS_BELONG}")
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        return _parsed_file(url)
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigError(f"sweep.storage: must be {_FORMS}, got {url.drivername}://")
    if not url.database:
        raise ConfigError(f"sweep.storage: names no database; write {_FORMS}")
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigError("sweep.storage: postgresql:// needs psycopg: pip install 'stepsize[postgresql]'")
    return url.set(drivername="postgresql+psycopg")


def _parsed_file(url: URL) -> URL:
    path = url.database or ""
    if path in ("", ":memory:") or path.startswith("file:") or url.query:
        raise ConfigError(
            "sweep.storage: sqlite:// must name a file, which other processes can open, and nothing else: "
            "sqlite:////FOLDER/study.db"
        )
    return url.set(database=str(Path(path).absolute()))


def _is_race(error: BaseException) -> bool:
    """Whether another process that opens the same empty database came between."""
    cause = _cause(error)
    is_locked = getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
    return is_locked or getattr(cause, "sqlstate", None) in _CREATED_BY_ANOTHER


def _cause(error: BaseException) -> BaseException:
    """What the driver raised, rather than those who passed it on."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    said = one_line(_cause(error))
    return f"{said} ({_WHERE_PASSWORDS_BELONG})" if "password" in said else said
