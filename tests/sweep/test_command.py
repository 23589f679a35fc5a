from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from stepsize.sweep.command import command, quoted, threads


@pytest.mark.parametrize("folder", ["/a b/c", "/it's, here", "/a+b=c/{d}", "/two''quotes"])
def test_hydra_reads_a_quoted_folder_as_it_is(folder: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"hydra.sweep.dir={quoted(Path(folder))}"])
    assert override.value() == folder


def test_a_trial_is_repeated_with_as_many_threads_as_it_had() -> None:
    program, words = ("python", "train.py"), ("model.widths=[64]", "optimizer.lr=0.1")
    assert command(program, words, 2) == "OMP_NUM_THREADS=2 python train.py 'model.widths=[64]' optimizer.lr=0.1"
    assert command(program, words, None) == "python train.py 'model.widths=[64]' optimizer.lr=0.1"


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert [threads(workers) for workers in (1, 2, 3, 16)] == [None, 4, 2, 1]
