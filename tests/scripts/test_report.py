"""scripts/report.py, and that others' tools read the same study."""

import csv
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import SWEEP, Commands, given_in, until

REPORT = Path(__file__).parents[2] / "scripts" / "report.py"
WORDS = (*SWEEP[:-1], "hydra.sweep.dir=runs/sweeps/bowl", "hydra.sweeper.study=bowl", "x=interval(0,1)", "seen=seen")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A sweep of four trials, the last of which is not let go."""
    with given_in(tmp_path_factory.mktemp("swept")) as commands:
        (commands.folder / "hold").touch()
        commands.start(*WORDS, "hydra.sweeper.n_trials=4", "hold=hold", "held=[3]")
        until(lambda: 3 in commands.numbers())
        yield commands


def numbers(folder: Path) -> list[str]:
    with (folder / "trials.csv").open(newline="") as file:
        return [row["number"] for row in csv.DictReader(file) if row["state"] == "complete"]


def test_the_files_are_made_from_storage_while_the_sweep_runs(swept: Commands) -> None:
    folder = swept.folder / "runs/sweeps/bowl"
    assert not (folder / "report.html").exists()
    ended = swept.run("bowl", program=REPORT)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-2:] == ["runs/sweeps/bowl/best.yaml", "runs/sweeps/bowl/report.html"]
    assert "(trial 2, 3 of 4 finished)" in ended.out
    assert numbers(folder) == ["0", "1", "2"]
    assert list((folder / "plots").glob("*.png"))
    best = folder / "best.yaml"
    assert "x: 0.335410124995547" in best.read_text()


def test_another_storage_and_folder_can_be_named(swept: Commands) -> None:
    storage = f"sqlite:///{swept.folder}/runs/sweeps/bowl/study.db"
    ended = swept.run("bowl", "--storage", storage, "--folder", "elsewhere", program=REPORT)
    assert (ended.code, ended.err) == (0, "")
    assert numbers(swept.folder / "elsewhere") == ["0", "1", "2"]
    assert (swept.folder / "elsewhere/report.html").exists()


def test_the_folder_stands_for_the_sweep_in_it(swept: Commands) -> None:
    ended = swept.run(str(swept.folder / "runs/sweeps/bowl"), program=REPORT)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1].endswith("runs/sweeps/bowl/report.html")
    assert "(trial 2, 3 of 4 finished)" in ended.out


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["bowel"], "bowel: no study.db in runs/sweeps/bowel; name --storage or --folder; did you mean bowl?"),
        (["bowel", "--folder", "runs/sweeps/bowl"], "bowel: there is no such sweep; did you mean bowl?"),
        (["bowl", "--storage", "sqlite:////nowhere/study.db"], "sweep.storage: sqlite:////nowhere/study.db cannot be"),
    ],
)
def test_what_is_not_there_is_answered_in_one_line(swept: Commands, words: list[str], answer: str) -> None:
    ended = swept.run(*words, program=REPORT)
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith(f"error: {answer}")
    assert not (swept.folder / "runs/sweeps/bowel").exists()


def test_the_study_opens_in_optuna_dashboard(swept: Commands) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    storage = f"sqlite:///{swept.folder}/runs/sweeps/bowl/study.db"
    server = subprocess.Popen(
        [program, storage, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    answers: list[dict] = []

    def ask() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=20) as answer:
                answers.append(json.load(answer))
        except OSError:
            return False
        return True

    try:
        until(ask)
    finally:
        server.terminate()
        server.wait()
    assert [study["study_name"] for study in answers[0]["study_summaries"]] == ["bowl"]
