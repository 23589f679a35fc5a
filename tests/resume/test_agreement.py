"""What processes agree on between comparisons; each process a thread here, with a clock of its own."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stepsize.resume import agreement
from stepsize.resume.agreement import Agreement


class Together:
    """Reduces over threads as a strategy does over processes, and counts how often."""

    def __init__(self, processes: int) -> None:
        self.barrier = threading.Barrier(processes, timeout=10)
        self.told: dict[int, torch.Tensor] = {}
        self.reduces = 0

    def reduce(self, rank: int, here: torch.Tensor) -> torch.Tensor:
        self.told[rank] = here
        if self.barrier.wait() == 0:
            self.reduces += 1
        found = torch.stack(list(self.told.values())).amax(0)
        self.barrier.wait()
        return found


def acted(monkeypatch: pytest.MonkeyPatch, step_seconds: list[float], steps: int, asked: dict[int, int]) -> Any:
    """At which step each process first acts, what it then knows, and the number of comparisons.

    Args:
        monkeypatch: gives each process its clock.
        step_seconds: of each process.
        steps: to take.
        asked: process to the step at which it alone comes to know 15.
    """
    clock = threading.local()
    monkeypatch.setattr(agreement, "time", SimpleNamespace(monotonic=lambda: clock.now))
    together, found = Together(len(step_seconds)), {}

    def train(rank: int) -> None:
        strategy: Any = SimpleNamespace(
            root_device=torch.device("cpu"), reduce=lambda told, reduce_op: together.reduce(rank, told)
        )
        agreed = Agreement(SimpleNamespace(world_size=len(step_seconds), strategy=strategy))
        clock.now = 1000.0 * rank  # clocks of several machines
        for step in range(1, steps + 1):
            clock.now += step_seconds[rank]
            number = agreed.greatest(15 if step >= asked.get(rank, steps + 1) else 0)
            if number:
                found[rank] = (step, number)
                return

    in_threads([lambda rank=rank: train(rank) for rank in range(len(step_seconds))])
    return SimpleNamespace(at=found, reduces=together.reduces)


def in_threads(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_one_process_acts_at_once() -> None:
    assert Agreement(SimpleNamespace(world_size=1)).greatest(15) == 15


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_all_processes_act_at_the_same_step_whatever_their_clocks(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    at = acted(monkeypatch, [0.011, 0.010, 0.013], 2000, {rank: 700}).at
    assert len(at) == 3
    assert len(set(at.values())) == 1
    step, number = at[0]
    assert 700 <= step <= 700 + 1 / 0.013
    assert number == 15


def test_comparisons_grow_with_time_and_not_with_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = acted(monkeypatch, [0.01, 0.01], 6000, {}).reduces  # a minute each
    fast = acted(monkeypatch, [0.001, 0.001], 60000, {}).reduces
    assert 60 <= slow <= 60 + 8
    assert 60 <= fast <= 60 + 12


def test_steps_longer_than_the_period_compare_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert acted(monkeypatch, [3.0, 3.0], 50, {}).reduces == 50
