"""Which GPU a trial sees."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepsize.sweep import runners
from stepsize.sweep.fork_server import Job
from stepsize.sweep.plan import Claimed


@pytest.mark.parametrize(
    ("gpus", "workers", "seen"),
    [
        (["3", "5"], 2, ["3", "5"]),
        (["3", "5"], 3, ["3", "5", "3"]),
        (["3", "5"], 1, [None]),
        ([], 2, [None, None]),
    ],
)
def test_workers_take_one_gpu_each_in_turn(
    gpus: list[str], workers: int, seen: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "_gpus", lambda: gpus)
    jobs: list[Job] = []
    server: Any = SimpleNamespace(start=lambda job: jobs.append(job) or len(jobs))
    study: Any = SimpleNamespace(plan=SimpleNamespace(name="s", overrides=()), attributes={}, note=lambda *facts: None)
    pool = runners.Pool(server, workers, tmp_path)
    for number in range(workers):
        trial: Any = None
        pool.start(study, Claimed(trial, number, number, {}, str(number)))
    assert [job.environment.get("CUDA_VISIBLE_DEVICES") for job in jobs] == seen
