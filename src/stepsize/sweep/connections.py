"""How the connections to a database begin their transactions, and which of their errors pass by themselves."""

import os
import sqlite3
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext

_PASSING_SQLITE = (  # https://www.sqlite.org/rescode.html
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
)
# Classes of https://www.postgresql.org/docs/current/errcodes-appendix.html: connection, rollback (deadlock),
# insufficient resources, operator intervention (shutdown).
_PASSING_POSTGRESQL = ("08", "40", "53", "57")


class NoAnswerError(Exception):
    """A call that failed for a reason that passes; its transaction may have been committed all the same."""


def listen(engine: Engine, begins_with_lock: Callable[[], bool]) -> None:
    """Prepare an engine before its first connection.

    Args:
        engine: its errors that pass will be NoAnswerErrors.
        begins_with_lock: whether a transaction of SQLite takes the lock for writing as it begins. The sqlite3 module
            itself begins none before the first write.
    """

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if begins_with_lock() else "BEGIN")

    event.listen(engine, "handle_error", _tell_what_passes)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _leave_transactions_to_us)
        event.listen(engine, "begin", begin)
    else:
        event.listen(engine, "connect", _tell_time_in_utc)


def close(engine: Engine, owner: int) -> None:
    """Close the engine's connections, in the process that opened them: in a fork of it they are the parent's still."""
    engine.dispose(close=os.getpid() == owner)


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _tell_what_passes(context: ExceptionContext) -> None:
    """Raise NoAnswerError in place of an error of the driver that need not come again."""
    error = context.original_exception
    if context.is_pre_ping:  # the pool opens another connection by itself
        return
    code = getattr(error, "sqlstate", None) or ""
    if code.startswith("57P"):  # the server ends: this connection is of no more use
        context.is_disconnect = True
    is_connecting = context.connection is None
    passes = code.startswith(_PASSING_POSTGRESQL) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING_SQLITE
    if is_connecting or context.is_disconnect or passes:
        raise NoAnswerError(one_line(error)) from error


def _leave_transactions_to_us(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None


def _tell_time_in_utc(connection: Any, _: object) -> None:
    # Heartbeats are stored without a time zone, and would be an hour old when summer begins.
    connection.execute("SET TIME ZONE 'UTC'")
    connection.commit()
