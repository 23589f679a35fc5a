import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from textwrap import dedent
from typing import Any

import cloudpickle
import pytest

from stepsize.sweep.fork_server import ForkServer, Job, Outcome, Process, tail, wait

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the children cannot import this file

LONG = 60  # seconds: a test that waits for it has failed


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with pytest.MonkeyPatch.context() as patch, heard():
        patch.delenv("PYTHONUNBUFFERED", raising=False)  # the children write line by line without it
        # A process has one server, and another module's tests may have started it with other modules.
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
        server = ForkServer(["torch", "numpy.random"])
        server.warm()
        yield server
        server.close()


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Let what is started heed signals that the tests may have been started to ignore, as nohup and & do."""
    heeding = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in heeding.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def start(server: ForkServer, tmp_path: Path) -> Callable[..., Process]:
    def make(call: Callable[[], Any], **fields: Any) -> Process:
        return server.start(
            Job(cloudpickle.dumps(call), tmp_path / "logs" / "output.log", ["train.py", "a=1"], **fields)
        )

    return make


@pytest.fixture
def outcome(start: Callable[..., Process]) -> Callable[..., Outcome]:
    def of(call: Callable[[], Any], **fields: Any) -> Outcome:
        return ended(start(call, **fields))

    return of


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "output.log"


def ended(process: Process) -> Outcome:
    assert wait([process], LONG / 2) == [process]
    return process.outcome()


def appears(path: Path) -> str:
    """The text of a file that another process writes."""
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def drive(folder: Path, script: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A driver of its own, of this text; `arguments` start it, by default as a script."""
    path = folder / "driver.py"
    path.write_text(
        dedent("""
        import os, signal, sys, time
        from pathlib import Path
        import cloudpickle
        from stepsize.sweep.fork_server import ForkServer, Job, wait
        FOLDER = Path(__file__).parent
        def job(call):
            return Job(cloudpickle.dumps(call), FOLDER / "output.log", ["train.py"])
        """)
        + dedent(script)
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, *(arguments or (path.name,))]
    return subprocess.Popen(command, cwd=folder, start_new_session=True, **pipes, **options)


# What a call leaves


def test_value_comes_back(outcome: Callable[..., Outcome]) -> None:
    assert outcome(lambda: {"loss": 0.5}) == Outcome({"loss": 0.5}, "", "", None, 0, False)


def test_a_large_value_comes_back_though_nobody_reads_while_it_is_written(start: Callable[..., Process]) -> None:
    process = start(lambda: os.urandom(10_000_000))
    assert len(ended(process).value) == 10_000_000


def test_each_call_has_a_process_of_its_own(outcome: Callable[..., Outcome]) -> None:
    def leak() -> int:
        sys.leaked = getattr(sys, "leaked", 0) + 1  # type: ignore[attr-defined]
        return sys.leaked  # type: ignore[attr-defined,no-any-return]

    assert [outcome(leak).value, outcome(leak).value] == [1, 1]


def test_an_exception_is_told_in_a_line_and_its_traceback_is_in_the_output(
    outcome: Callable[..., Outcome], output: Path
) -> None:
    def fail() -> None:
        raise ValueError("no such\ndata")

    found = outcome(fail)
    assert (found.value, found.error, found.signal, found.exit_code) == (None, "ValueError: no such data", None, 1)
    assert not found.interrupted
    assert "in fail" in found.traceback
    assert "fork_child" not in found.traceback
    assert found.traceback in output.read_text()


def test_memory_error_is_an_exception_like_others(outcome: Callable[..., Outcome]) -> None:
    def fill() -> bytearray:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 200_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return bytearray(1 << 30)

    assert outcome(fill).error == "MemoryError"


def test_a_value_that_cannot_be_pickled_is_an_error(outcome: Callable[..., Outcome]) -> None:
    found = outcome(threading.Lock)
    assert found.error == "the result cannot be pickled: TypeError: cannot pickle '_thread.lock' object"
    assert found.exit_code == 1


def test_a_value_that_cannot_be_read_is_an_error(outcome: Callable[..., Outcome]) -> None:
    class Unreadable:
        def __reduce__(self) -> Any:
            return int, ("x",)

    assert outcome(Unreadable).error.startswith("the result cannot be read: ValueError: invalid literal")


def test_sigkill_costs_one_process(outcome: Callable[..., Outcome]) -> None:
    found = outcome(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert found == Outcome(None, "killed by SIGKILL (out of memory?)", "", signal.SIGKILL, -signal.SIGKILL, False)
    assert outcome(lambda: 1).value == 1


def test_a_segfault_is_named_and_leaves_its_stack_in_the_output(outcome: Callable[..., Outcome], output: Path) -> None:
    def crash() -> None:
        ctypes.string_at(0)

    found = outcome(crash)
    assert (found.error, found.signal) == ("killed by SIGSEGV", signal.SIGSEGV)
    assert "in crash" in output.read_text()


@pytest.mark.parametrize(
    ("leave", "error"),
    [
        (lambda: os._exit(3), "the process ended with exit code 3 and no result"),
        (lambda: sys.exit(3), "SystemExit: 3"),
    ],
    ids=["os._exit", "sys.exit"],
)
def test_a_call_that_ends_its_process_is_an_error(
    outcome: Callable[..., Outcome], leave: Callable[[], None], error: str
) -> None:
    assert outcome(leave) == Outcome(None, error, outcome(leave).traceback, None, 3, False)


def test_what_a_call_leaves_running_ends_with_it(outcome: Callable[..., Outcome]) -> None:
    found = outcome(lambda: subprocess.Popen(["sleep", str(LONG)]).pid)
    until(lambda: is_gone(found.value))


def test_a_thread_left_running_does_not_hold_the_process(outcome: Callable[..., Outcome]) -> None:
    def leave() -> str:
        from stepsize.sweep import fork_child

        fork_child._LONGEST_END = 0.2
        threading.Thread(target=time.sleep, args=(LONG,)).start()
        return "done"

    assert outcome(leave).value == "done"


# What a call finds


def test_output_has_what_the_process_and_its_children_print(outcome: Callable[..., Outcome], output: Path) -> None:
    def say() -> None:
        print("to stdout")
        print("to stderr", file=sys.stderr)
        subprocess.run(["echo", "from a child"], check=True)
        os._exit(0)  # nothing is lost in a buffer

    outcome(say)
    outcome(say)
    assert output.read_text() == "to stdout\nto stderr\nfrom a child\n" * 2


def test_command_line_and_environment_are_those_of_the_job(outcome: Callable[..., Outcome]) -> None:
    def find() -> tuple[Any, ...]:
        import __main__

        return sys.argv, sys.orig_argv[1:], __main__.__spec__, os.environ["STEPSIZE_TEST"]

    line = ["train.py", "a=1"]
    assert outcome(find, environment={"STEPSIZE_TEST": "x"}).value == (line, line, None, "x")


def test_a_loaded_torch_computes_with_the_threads_it_was_given(outcome: Callable[..., Outcome]) -> None:
    def multiply() -> tuple[Any, ...]:
        assert "torch" in sys.modules
        import torch

        equal = torch.ones(512, 512) @ torch.ones(512, 512)
        return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], float(equal.sum()), torch.cuda.is_initialized()

    assert outcome(multiply, threads=2).value == (2, "2", 512.0**3, False)


def test_dataloader_workers_run(outcome: Callable[..., Outcome]) -> None:
    def load() -> list[int]:
        from torch.utils.data import DataLoader

        return [int(batch) for batch in DataLoader(range(3), num_workers=1, batch_size=1)]  # type: ignore[arg-type]

    assert outcome(load).value == [0, 1, 2]


def test_numpy_draws_differ_from_process_to_process(outcome: Callable[..., Outcome]) -> None:
    def draw() -> float:
        import numpy as np

        return float(np.random.rand())

    assert outcome(draw).value != outcome(draw).value


# How a process is stopped


def sleeper(folder: Path) -> Callable[[], None]:
    """Starts a child, says so in `started`, sleeps, and says in `ended` that it ended in order."""

    def sleep() -> None:
        child = subprocess.Popen(["sleep", str(LONG)])
        (folder / "started").write_text(f"{child.pid} {os.getppid()} {os.getpid()}\n")
        try:
            time.sleep(LONG)
        finally:
            (folder / "ended").write_text("in order\n")

    return sleep


def test_stop_ends_in_order_what_the_process_does_and_what_it_started(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    process = start(sleeper(tmp_path))
    child = int(appears(tmp_path / "started").split()[0])
    process.stop()
    found = ended(process)
    assert (found.error, found.interrupted, found.exit_code) == ("KeyboardInterrupt", True, 143)
    assert (tmp_path / "ended").read_text() == "in order\n"
    until(lambda: is_gone(child))


def test_stop_is_heard_however_early_it_comes(start: Callable[..., Process]) -> None:
    for _ in range(5):
        process = start(lambda: time.sleep(LONG))
        process.stop()
        assert ended(process).interrupted


def test_a_second_stop_ends_at_once(start: Callable[..., Process], tmp_path: Path) -> None:
    def stubborn() -> None:
        (tmp_path / "started").write_text("\n")
        try:
            time.sleep(LONG)
        finally:
            (tmp_path / "asked").write_text("\n")
            time.sleep(LONG)

    process = start(stubborn)
    appears(tmp_path / "started")
    process.stop()
    appears(tmp_path / "asked")
    process.stop()
    found = ended(process)
    assert (found.exit_code, found.interrupted) == (143, True)


@pytest.mark.parametrize("finish", [lambda: 0.5, lambda: int("x")], ids=["value", "error"])
def test_whatever_comes_of_a_stop_is_marked_as_interrupted(
    start: Callable[..., Process], tmp_path: Path, finish: Callable[[], float]
) -> None:
    def resist() -> float:
        with contextlib.suppress(KeyboardInterrupt):
            sleeper(tmp_path)()
        return finish()

    process = start(resist)
    appears(tmp_path / "started")
    process.stop()
    assert ended(process).interrupted


def test_ctrl_c_answered_by_exit_as_lightning_does_is_an_interruption(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    def leave() -> None:
        try:
            sleeper(tmp_path)()
        except KeyboardInterrupt:
            sys.exit(1)

    process = start(leave)
    appears(tmp_path / "started")
    os.kill(process.pid, signal.SIGINT)
    found = ended(process)
    assert (found.interrupted, found.exit_code) == (True, 130)


def test_kill_ends_the_process_and_what_it_started(start: Callable[..., Process], tmp_path: Path) -> None:
    process = start(sleeper(tmp_path))
    child = int(appears(tmp_path / "started").split()[0])
    process.kill()
    found = ended(process)
    assert (found.error, found.signal, found.interrupted) == ("killed by SIGKILL", signal.SIGKILL, True)
    assert not (tmp_path / "ended").exists()
    until(lambda: is_gone(child))


# The driver's side


def test_processes_run_beside_each_other(start: Callable[..., Process], tmp_path: Path) -> None:
    def meet(mine: str, other: str) -> bool:
        (tmp_path / mine).write_text("here\n")
        return bool(appears(tmp_path / other))

    processes = [start(lambda: meet("a", "b")), start(lambda: meet("b", "a"))]
    assert [ended(p).value for p in processes] == [True, True]


def test_wait_returns_those_that_have_ended(start: Callable[..., Process]) -> None:
    slow, quick = start(lambda: time.sleep(LONG)), start(lambda: 1)
    assert wait([slow, quick], LONG / 2) == [quick]
    assert wait([slow], 0.05) == []
    with pytest.raises(RuntimeError, match="has not ended"):
        slow.outcome()
    slow.kill()
    assert ended(slow).signal == signal.SIGKILL


def test_ended_processes_hold_no_files_open(start: Callable[..., Process]) -> None:
    kept = [start(lambda: 1)]
    ended(kept[0])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(4):
        kept.append(start(lambda: 1))
        ended(kept[-1])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_killed_server_is_started_again(outcome: Callable[..., Outcome]) -> None:
    first = outcome(os.getppid).value
    os.kill(first, signal.SIGKILL)
    until(lambda: is_gone(first))
    found = outcome(lambda: (os.getppid(), "torch" in sys.modules)).value
    assert found[0] != first
    assert found[1]


def test_processes_of_a_killed_server_end_with_it(start: Callable[..., Process], tmp_path: Path) -> None:
    process = start(sleeper(tmp_path))
    pids = [int(pid) for pid in appears(tmp_path / "started").split()]
    os.kill(pids[1], signal.SIGKILL)
    found = ended(process)
    assert (found.error, found.signal) == ("the fork server was killed, and its trials with it", signal.SIGKILL)
    until(lambda: all(is_gone(pid) for pid in pids))


def test_closing_kills_what_runs(tmp_path: Path) -> None:
    server = ForkServer([])
    process = server.start(Job(cloudpickle.dumps(sleeper(tmp_path)), tmp_path / "output.log", ["train.py"]))
    pids = [int(pid) for pid in appears(tmp_path / "started").split()]
    server.close()
    until(lambda: is_gone(pids[0]) and is_gone(pids[2]))
    assert process.has_ended


def test_nothing_trains_on_when_the_driver_is_killed(tmp_path: Path) -> None:
    driver = drive(
        tmp_path,
        """
        def sleep():
            import subprocess
            child = subprocess.Popen(["sleep", "60"])
            (FOLDER / "started").write_text(f"{child.pid} {os.getpid()} {os.getppid()}\\n")
            time.sleep(60)
        if __name__ == "__main__":
            ForkServer([]).start(job(sleep))
            time.sleep(60)
        """,
    )
    pids = [int(pid) for pid in appears(tmp_path / "started").split()]
    driver.kill()
    driver.communicate()
    until(lambda: all(is_gone(pid) for pid in pids))


def test_a_driver_that_ends_by_an_error_leaves_nothing(tmp_path: Path) -> None:
    driver = drive(
        tmp_path,
        """
        if __name__ == "__main__":
            process = ForkServer([]).start(job(lambda: time.sleep(60)))
            print(process.pid, flush=True)
            raise ValueError("early end")
        """,
    )
    out, err = driver.communicate(timeout=LONG / 2)
    assert err.endswith("ValueError: early end\n")
    until(lambda: is_gone(int(out)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_job_reaches_the_driver_alone(tmp_path: Path, number: int) -> None:
    driver = drive(
        tmp_path,
        f"""
        def nap():
            (FOLDER / "started").write_text("\\n")
            time.sleep(0.5)
            return "slept"
        if __name__ == "__main__":
            heard = []
            signal.signal({number}, lambda *_: heard.append(1))
            server = ForkServer(["wave"])
            server.warm()
            os.killpg(0, {number})  # while it starts
            process = server.start(job(nap))
            while not (FOLDER / "started").exists():
                time.sleep(0.01)
            os.killpg(0, {number})  # while it serves
            wait([process], None)
            print(heard, process.outcome().value)
        """,
    )
    out, err = driver.communicate(timeout=LONG / 2)
    assert (out, err) == ("[1, 1] slept\n", "")


def test_ctrl_c_is_heard_below_a_driver_in_the_background(tmp_path: Path) -> None:
    driver = drive(
        tmp_path,
        """
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for `command &`
            process = ForkServer([]).start(job(lambda: signal.getsignal(signal.SIGINT).__name__))
            wait([process], None)
            print(process.outcome().value)
        """,
    )
    assert driver.communicate(timeout=LONG / 2) == ("default_int_handler\n", "")


def test_the_main_script_is_loaded_once_for_all_processes(tmp_path: Path) -> None:
    driver = drive(
        tmp_path,
        """
        sys.registered = os.getpid()
        with (FOLDER / "loads").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        if __name__ == "__main__":
            server = ForkServer([])
            for _ in range(3):
                process = server.start(job(lambda: sys.registered == os.getppid()))
                wait([process], None)
                print(process.outcome().value)
        """,
    )
    out, err = driver.communicate(timeout=LONG / 2)
    assert (out, err) == ("True\nTrue\nTrue\n", "")
    assert len((tmp_path / "loads").read_text().split()) == 2


def test_nothing_can_be_read_from_the_terminal(tmp_path: Path) -> None:
    driver = drive(
        tmp_path,
        """
        if __name__ == "__main__":
            process = ForkServer([]).start(job(lambda: os.read(0, 1)))
            wait([process], None)
            print(process.outcome().value, sys.stdin.read())
        """,
        stdin=subprocess.PIPE,
    )
    assert driver.communicate("typed", timeout=LONG / 2) == ("b'' typed\n", "")


def test_a_driver_run_as_a_module_has_children_that_are_scripts(tmp_path: Path) -> None:
    driver = drive(
        tmp_path,
        """
        import __main__
        if __name__ == "__main__":
            process = ForkServer([]).start(job(lambda: (__main__.__spec__, __main__.FOLDER == FOLDER)))
            wait([process], None)
            print(__spec__.name, process.outcome().value)
        """,
        "-m",
        "driver",
    )
    assert driver.communicate(timeout=LONG / 2) == ("driver (None, True)\n", "")


def test_a_module_that_cannot_be_loaded_is_warned_of_once(tmp_path: Path) -> None:
    driver = drive(
        tmp_path,
        """
        if __name__ == "__main__":
            server = ForkServer(["wave", "no_such_module"])
            for _ in range(2):
                process = server.start(job(lambda: "wave" in sys.modules))
                wait([process], None)
                print(process.outcome().value)
        """,
    )
    out, err = driver.communicate(timeout=LONG / 2)
    assert out == "True\nTrue\n"
    said = "the fork server has not loaded no_such_module, so that every trial does: ModuleNotFoundError: "
    assert err == f"{said}No module named 'no_such_module'\n"


def test_an_output_that_cannot_be_written_is_refused_by_the_driver(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        server.start(Job(b"", tmp_path / "file" / "output.log", ["train.py"]))


# What the server does once


def test_what_the_server_prepares_is_there_in_every_process(tmp_path: Path) -> None:
    driver = drive(
        tmp_path,
        """
        if __name__ == "__main__":
            server = ForkServer([], cloudpickle.dumps(lambda: setattr(sys, "prepared", os.getpid())))
            for _ in range(2):
                process = server.start(job(lambda: sys.prepared == os.getppid()))
                wait([process], None)
                print(process.outcome().value)
        """,
    )
    assert driver.communicate(timeout=LONG / 2) == ("True\nTrue\n", "")


def test_what_the_server_cannot_prepare_is_warned_of_and_is_the_error_of_each_job(tmp_path: Path) -> None:
    driver = drive(
        tmp_path,
        """
        if __name__ == "__main__":
            server = ForkServer([], cloudpickle.dumps(lambda: int("x")))
            for _ in range(2):
                process = server.start(job(lambda: 1))
                wait([process], None)
                print(process.outcome().error)
        """,
    )
    out, err = driver.communicate(timeout=LONG / 2)
    error = "ValueError: invalid literal for int() with base 10: 'x'"
    assert out == f"{error}\n" * 2
    assert err == f"the fork server has not loaded what it is to run, so that every trial does: {error}\n"


def test_what_another_server_prepared_is_not_taken_for_this_one_s(tmp_path: Path) -> None:
    driver = drive(
        tmp_path,
        """
        if __name__ == "__main__":
            for name in "ab":  # a driver has one server, which the first starts
                server = ForkServer([], cloudpickle.dumps(lambda name=name: setattr(sys, "prepared", name)))
                process = server.start(job(lambda: sys.prepared))
                wait([process], None)
                print(process.outcome().value)
                server.close()
        """,
    )
    assert driver.communicate(timeout=LONG / 2) == ("a\nb\n", "")


# The process that waits for the next job


def spare(server: ForkServer) -> int:
    assert server._spare is not None
    assert server._spare[0].pid is not None
    return server._spare[0].pid


def test_a_job_is_taken_by_the_process_that_waits(server: ForkServer, outcome: Callable[..., Outcome]) -> None:
    outcome(lambda: 1)
    waiting = spare(server)
    assert outcome(os.getpid).value == waiting
    assert spare(server) != waiting


def test_a_waiting_process_that_was_killed_is_replaced(server: ForkServer, outcome: Callable[..., Outcome]) -> None:
    outcome(lambda: 1)
    waiting = spare(server)
    os.kill(waiting, signal.SIGKILL)
    until(lambda: is_gone(waiting))
    assert outcome(os.getpid).value != waiting


def test_closing_ends_the_process_that_waits(tmp_path: Path) -> None:
    server = ForkServer([])
    ended(server.start(Job(cloudpickle.dumps(lambda: 1), tmp_path / "output.log", ["train.py"])))
    waiting = spare(server)
    server.close()
    assert is_gone(waiting)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(0)", "int('x')"])
def test_the_process_that_waits_ends_with_the_driver(tmp_path: Path, end: str) -> None:
    driver = drive(
        tmp_path,
        f"""
        if __name__ == "__main__":
            server = ForkServer([])
            wait([server.start(job(lambda: 1))], None)
            print(server._spare[0].pid, os.getpid(), flush=True)
            {end}
        """,
    )
    out, _ = driver.communicate(timeout=LONG / 2)
    until(lambda: is_gone(int(out.split()[0])))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_process_that_waits_does_not_end_the_job_it_takes_unheard(
    server: ForkServer, outcome: Callable[..., Outcome], number: int
) -> None:
    outcome(lambda: 1)
    os.kill(spare(server), number)
    found = outcome(lambda: time.sleep(LONG))
    assert found.interrupted or found.signal == number


# The end of an output


def test_tail_is_the_last_lines_and_a_bar_as_last_drawn(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one\ntwo\n0%\r50%\r100%\nfour \xff\n")
    assert tail(tmp_path / "log", 3) == "two\n100%\nfour \ufffd"


def test_tail_of_a_long_file_is_its_end(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join(map(str, range(100_000))))
    assert tail(tmp_path / "log", 2) == "99998\n99999"


def test_tail_of_no_file_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "log") == ""
