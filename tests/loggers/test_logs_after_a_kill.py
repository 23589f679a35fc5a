"""What a run logs when it is killed and gone on with, against a run that nobody disturbed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
# 33 steps an epoch; neither losses nor checkpoints fall on its end alone
WORDS = (
    "trainer.accelerator=cpu",
    "trainer.max_epochs=60",
    "trainer.log_every_n_steps=7",
    "trainer.check_val_every_n_epoch=5",
    "callbacks.checkpoint.every_n_steps=50",
    "optimizer.lr=0.01",
)
Curve = list[tuple[int, float]]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "train.py"), *WORDS, f"run_dir={folder}", *words]
    return subprocess.Popen(command, cwd=folder.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def kill(folder: Path, process: subprocess.Popen[str], due: Callable[[int], bool]) -> int:
    """Kill the process at a moment when its last checkpoint is of a step that is due; returns that step."""
    last = folder / "checkpoints" / "last.ckpt"
    while True:
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(signal.SIGSTOP)  # so that nothing moves while we look
        step = torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
        if due(step):
            process.kill()
            assert process.wait() == -signal.SIGKILL
            assert process.stderr is not None
            process.stderr.close()
            return int(step)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.02)


def curves(folder: Path) -> dict[str, Curve]:
    """Every point of every curve, in the order of reading."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def reached(folder: Path) -> int:
    """The last step that the training loss was logged at."""
    found = curves(folder).get("train/loss", [])
    return found[-1][0] if found else 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two runs: one that nobody disturbed, and one killed twice, each time beyond its last checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    end(start(folder / "whole"))
    cut = folder / "cut"
    begun = kill(cut, start(cut), lambda step: 0 < step < reached(cut))
    kill(cut, start(cut, f"resume={cut}"), lambda step: begun < step < reached(cut))
    end(start(cut, f"resume={cut}"))
    return folder


def test_every_curve_is_that_of_a_run_that_nobody_disturbed(runs: Path) -> None:
    assert curves(runs / "cut") == curves(runs / "whole")


def test_whoever_reads_the_records_themselves_finds_each_step_once(runs: Path) -> None:
    found = [
        (value.tag, event.step)
        for path in sorted((runs / "cut" / "tensorboard").glob("*tfevents*"))
        for event in map(Event.FromString, RawEventFileLoader(str(path)).Load())
        for value in event.summary.value
    ]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("key", ["objective", "best", "last", "test", "steps", "epochs", "examples"])
def test_the_result_is_that_of_a_run_that_nobody_disturbed(runs: Path, key: str) -> None:
    whole, cut = (json.loads((runs / name / "result.json").read_text()) for name in ("whole", "cut"))
    assert cut[key] == whole[key]


def test_the_result_tells_where_the_run_went_on(runs: Path) -> None:
    whole, cut = (json.loads((runs / name / "result.json").read_text()) for name in ("whole", "cut"))
    assert whole["resumed_from_step"] is None
    assert 0 < cut["resumed_from_step"] < cut["steps"]


def test_the_log_of_every_attempt_stays(runs: Path) -> None:
    assert (runs / "cut" / "train.log").read_text().count("such as") == 3  # the table of groups, said at each start


@contextmanager
def server(folder: Path, *words: str) -> Iterator[str]:
    """The address of a TensorBoard that shows a folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0", *words],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        yield next(m[1] for line in process.stderr if (m := re.search(r"(http://\S+?)/? ", line)))
    finally:
        process.terminate()
        process.communicate(timeout=30)


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(
        urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=30
    ) as answer:
        return json.load(answer)


@pytest.mark.parametrize("words", [(), ("--load_fast=false",)], ids=["data server", "python"])
def test_tensorboard_shows_one_run_with_one_curve_a_tag(runs: Path, words: tuple[str, ...]) -> None:
    expected = curves(runs / "whole")
    with server(runs, *words) as url:
        for _ in range(60):  # until it has read everything
            tags = ask(f"{url}/data/plugin/scalars/tags")
            if set(tags) == {"whole/tensorboard", "cut/tensorboard"} and "test/loss" in tags["cut/tensorboard"]:
                break
            time.sleep(0.5)
        shown = {
            tag: [
                (step, value)
                for _, step, value in ask(
                    f"{url}/data/plugin/scalars/scalars?{urlencode({'tag': tag, 'run': 'cut/tensorboard'})}"
                )
            ]
            for tag in tags["cut/tensorboard"]
        }
    assert set(tags) == {"whole/tensorboard", "cut/tensorboard"}
    assert shown == expected


@pytest.mark.parametrize("words", [(), ("--load_fast=false",)], ids=["data server", "python"])
def test_the_hparams_page_has_one_row_a_run(runs: Path, words: tuple[str, ...]) -> None:
    asked = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"metric": {"tag": "val/accuracy", "group": ""}}],
        "startIndex": 0,
        "sliceSize": 10,
    }
    with server(runs, *words) as url:
        for _ in range(60):  # until it has read everything
            rows = ask(f"{url}/data/plugin/hparams/session_groups", asked).get("sessionGroups", [])
            if len(rows) >= 2 and all(row["metricValues"] for row in rows):
                break
            time.sleep(0.5)
    assert sorted(session["name"] for row in rows for session in row["sessions"]) == [
        "cut/tensorboard",
        "whole/tensorboard",
    ]
    last = {row["sessions"][0]["name"]: row["metricValues"][0]["value"] for row in rows}
    assert last["cut/tensorboard"] == last["whole/tensorboard"]


def test_a_table_is_that_of_a_run_that_nobody_disturbed(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    end(start(whole, "logger=csv"))
    kill(cut, start(cut, "logger=csv"), lambda step: step > 0)
    end(start(cut, "logger=csv", f"resume={cut}"))
    assert (cut / "csv" / "metrics.csv").read_bytes() == (whole / "csv" / "metrics.csv").read_bytes()
