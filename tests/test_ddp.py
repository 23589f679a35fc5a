"""Two real processes over gloo, against one with the doubled batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
# Some examples of the digits are equal, so each process is known by the sums of what it saw, over a few batches only.
WORDS = ("trainer.max_epochs=2", "trainer.limit_train_batches=10", "optimizer=momentum", "optimizer.lr=0.01", "seed=0")


def run(folder: Path, *words: str) -> list[dict]:
    """Train with the probe; what each process told, by rank."""
    folder.mkdir()
    probe = f"+callbacks.probe={{_target_:ddp_probe.Probe,folder:{folder}}}"
    command = [sys.executable, str(REPOSITORY / "train.py"), *WORDS, *words, probe, f"run_dir={folder}/run"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "tests")}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=240)
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("rank*.pt"))]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("ddp") / "two"
    return folder, run(folder, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=16")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict:
    (only,) = run(tmp_path_factory.mktemp("ddp") / "one", "trainer=cpu", "data.batch_size=32")
    return only


def test_both_ranks_end_with_the_same_weights(two: tuple[Path, list[dict]]) -> None:
    first, second = (told["weights"] for told in two[1])
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_ranks_share_the_examples_without_overlap(two: tuple[Path, list[dict]], one: dict) -> None:
    first, second = (told["seen"] for told in two[1])
    assert len(first) == len(second) == 2 * 10 * 16
    both = torch.cat([first.view(20, 16), second.view(20, 16)], dim=1)
    torch.testing.assert_close(both, one["seen"].view(20, 32), rtol=0, atol=0)


def test_two_ranks_equal_one_process_with_the_doubled_batch(two: tuple[Path, list[dict]], one: dict) -> None:
    for told in two[1]:
        assert told["steps"] == one["steps"] == 20
        torch.testing.assert_close(told["weights"], one["weights"], rtol=1e-5, atol=1e-6)


def test_metrics_are_those_of_all_examples_on_every_rank(two: tuple[Path, list[dict]], one: dict) -> None:
    for told in two[1]:
        assert told["metrics"]["val/accuracy"] == one["metrics"]["val/accuracy"]
        assert told["metrics"]["val/loss"] == pytest.approx(one["metrics"]["val/loss"], rel=1e-5)


def test_the_result_is_written_once_and_counts_all_examples(two: tuple[Path, list[dict]]) -> None:
    results = list(two[0].rglob("result.json"))
    assert len(results) == 1
    said = json.loads(results[0].read_text())
    assert (said["examples"], said["world_size"], said["ended"]) == (2 * 10 * 32, 2, "finished")
    assert len(list(two[0].rglob("events.out.tfevents.*"))) == len(list((two[0] / "run" / "tensorboard").iterdir()))
