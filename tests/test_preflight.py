"""What is checked before a run's folder is touched."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from stepsize.config import CONF
from stepsize.errors import ConfigError
from stepsize.preflight import Preflight, joins_a_run, refuse_used, remove_traces

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _started_by_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """The folder of an old run."""
    folder = tmp_path / "used"
    for name in ("result.json", "train.log", ".hydra/config.yaml", "checkpoints/last.ckpt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"old {name}")
    return folder


@pytest.fixture
def started() -> Iterator[Callable[..., None]]:
    """started("optimizer=sgd", ...) is what Hydra does with the callback where a run starts."""

    def start(*words: str) -> None:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            Preflight().on_run_start(compose("train", [*words], return_hydra_config=True))

    yield start
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize("trace", ["result.json", "checkpoints", "tensorboard"])
def test_a_folder_with_a_trace_of_a_run_is_refused(tmp_path: Path, trace: str) -> None:
    (tmp_path / trace).mkdir()
    with pytest.raises(ConfigError, match="holds a run already; choose another folder, or resume="):
        refuse_used(tmp_path, None)


def test_resuming_allows_the_folder_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "result.json").touch()
    refuse_used(tmp_path, str(tmp_path))


@pytest.mark.parametrize("resume", ["auto", "latest", "{}/checkpoints/last.ckpt", "{}/"])
def test_continuing_the_run_of_a_folder_is_allowed_there(used: Path, resume: str) -> None:
    refuse_used(used, resume.format(used))


def test_continuing_another_run_is_refused_in_the_folder_of_one(used: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a run already"):
        refuse_used(used, str(tmp_path / "other" / "checkpoints" / "last.ckpt"))


def test_a_folder_that_does_not_exist_is_allowed(tmp_path: Path) -> None:
    refuse_used(tmp_path / "new", None)


def test_a_folder_of_the_user_s_own_files_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    refuse_used(tmp_path, None)


def test_a_process_that_joins_a_run_is_let_into_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    (tmp_path / "checkpoints").mkdir()
    refuse_used(tmp_path, None)


def test_a_local_rank_says_that_a_process_joins_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert joins_a_run() is True


def test_a_process_without_a_local_rank_starts_a_run() -> None:
    assert joins_a_run() is False


def test_a_used_folder_is_refused_and_nothing_in_it_changes(command: Command, tmp_path: Path, used: Path) -> None:
    def contents() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}

    before = contents()
    done = command("run_dir=used", "trainer=cpu")
    assert (done.returncode, done.stderr, contents()) == (
        1,
        "error: run_dir=used: holds a run already; choose another folder, or resume=used\n",
        before,
    )


def test_a_wrong_choice_ends_the_process_before_hydra_makes_a_folder(
    tmp_path: Path, started: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        started(f"run_dir={tmp_path / 'new'}", "model=gpt")
    assert ("model: GPT takes tokens" in capsys.readouterr().err, (tmp_path / "new").exists()) == (True, False)


@pytest.mark.parametrize("word", ["sweep=lr", "sweep=compare"])
def test_a_sweep_without_m_is_refused_and_leaves_nothing(
    tmp_path: Path, started: Callable[..., None], capsys: pytest.CaptureFixture[str], word: str
) -> None:
    with pytest.raises(SystemExit, match="1"):
        started(f"run_dir={tmp_path / 'new'}", word)
    assert "sweep: a sweep is many runs; add -m: python train.py -m sweep=" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_joins_a_run_is_not_checked_again(
    used: Path, started: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    started(f"run_dir={used}")


def test_an_error_of_a_run_that_never_began_is_answered_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    failed = JobReturn(status=JobStatus.FAILED, _return_value=ConfigError("cannot work"))
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    config = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(tmp_path / "run")}}})
    with pytest.raises(SystemExit, match="1"):
        Preflight().on_run_end(config, job_return=failed)
    assert ("cannot work" in capsys.readouterr().err, (tmp_path / "run").exists()) == (True, False)


def test_what_a_run_had_already_written_stays(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "train.log").write_text("a line")
    (tmp_path / "mine").touch()
    remove_traces(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"train.log", "mine"}


def test_a_run_that_ended_well_is_left_alone() -> None:
    Preflight().on_run_end(OmegaConf.create(), job_return=JobReturn(status=JobStatus.COMPLETED, _return_value=0.5))
