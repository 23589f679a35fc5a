"""A run under SLURM, whose environment and `scontrol` are made up here: a signal before the time limit requeues it."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from training_commands import Commands, until

RUN = ("trainer=cpu", "trainer.max_epochs=3", "trainer.limit_train_batches=10", "data.batch_size=32", "run_dir=run")
AUTO = (*RUN, "resume=auto")


class Slurm(Commands):
    """Commands of a job."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "digits", "SLURM_JOB_NODELIST": "localhost"}
        self.scontrol(0)

    def scontrol(self, code: int) -> None:
        """Put a `scontrol` on the path that notes its arguments and ends with a code."""
        path = self.folder / "bin" / "scontrol"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "$@" >> {self.folder}/asked\necho "Invalid job id" >&2\nexit {code}\n')
        path.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def task(self, number: int = 0, of: int = 1, **more: str) -> dict[str, str]:
        """The environment of a task, as `srun` makes it."""
        places = {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "SLURM_NODEID": "0"}
        counts = {"SLURM_NTASKS": str(of), "SLURM_NTASKS_PER_NODE": str(of), "SLURM_NNODES": "1"}
        return {"PATH": f"{self.folder}/bin:/usr/bin:/bin"} | self.job | places | counts | more


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    made = Slurm(tmp_path)
    yield made
    made.kill_all()


def test_the_signal_before_the_time_limit_saves_and_requeues_and_the_same_command_continues(slurm: Slurm) -> None:
    ended = slurm.interrupted(signal.SIGUSR1, *AUTO, **slurm.task())
    assert ended.code == 143
    assert slurm.asked == ["requeue 4711"]
    assert ended.last == "SLURM will start job 4711 again"
    assert "SIGUSR1 at step 6; saved run/checkpoints/last.ckpt" in ended.out.splitlines()
    again = slurm.run(*AUTO, **slurm.task())
    assert again.code == 0
    assert "goes on from run/checkpoints/last.ckpt, at step 6" in again.out.splitlines()
    assert slurm.result()["steps"] == 30


@pytest.mark.slow
def test_a_task_of_an_array_is_requeued_by_its_own_name(slurm: Slurm) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "11"}
    slurm.interrupted(signal.SIGUSR1, *AUTO, **slurm.task(**array))
    assert slurm.asked == ["requeue 4700_11"]


@pytest.mark.slow
def test_a_run_that_would_not_continue_is_not_requeued_and_says_what_to_type(slurm: Slurm) -> None:
    ended = slurm.interrupted(signal.SIGUSR1, *RUN, **slurm.task())
    assert (ended.code, slurm.asked) == (143, [])
    assert ended.last.endswith("train.py resume=run")


@pytest.mark.slow
def test_sigterm_does_not_requeue(slurm: Slurm) -> None:
    """By SIGTERM SLURM ends a job for good, or one that it will requeue by itself."""
    ended = slurm.interrupted(signal.SIGTERM, *AUTO, **slurm.task())
    assert (ended.code, slurm.asked) == (143, [])
    assert ended.last == "to continue: the same command"


@pytest.mark.slow
def test_a_run_that_cannot_be_requeued_is_saved_and_warns(slurm: Slurm) -> None:
    slurm.scontrol(1)
    ended = slurm.interrupted(signal.SIGUSR1, *AUTO, **slurm.task())
    assert ended.code == 143
    assert "scontrol requeue 4711 failed: Invalid job id" in ended.out.splitlines()
    assert ended.last == "to continue: the same command"
    assert slurm.saved()["global_step"] == 6


@pytest.mark.slow
def test_two_tasks_that_both_receive_the_signal_requeue_the_job_once(slurm: Slurm) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    words = (*AUTO, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    second = slurm.start(*words, **slurm.task(1, of=2, **meeting))
    first = slurm.held(*words, at="step:2", **slurm.task(0, of=2, **meeting))
    for task in (first, second):
        task.send(signal.SIGUSR1)
    until(lambda: b"stopping after this step" in first.err.read_bytes())
    (slurm.folder / "hold").unlink()
    assert (first.end().code, second.end().code) == (143, 0)
    assert slurm.asked == ["requeue 4711"]
    assert 2 < slurm.saved()["global_step"] < 30
