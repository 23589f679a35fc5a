from pathlib import Path

import pytest
import torch

from stepsize.errors import ConfigError
from stepsize.resume.again import words


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder of a run, in which Hydra noted what was typed."""
    folder = tmp_path / "old"
    (folder / ".hydra").mkdir(parents=True)
    noted = "- optimizer=lion\n- optimizer.lr=0.01\n- trainer.max_epochs=3\n- +callbacks.more=null\n- run_dir=old\n"
    (folder / ".hydra" / "overrides.yaml").write_text(noted)
    return folder


def test_what_was_typed_for_the_run_holds_again(old: Path) -> None:
    expected = ["optimizer=lion", "optimizer.lr=0.01", "trainer.max_epochs=3", "+callbacks.more=null"]
    assert words([f"resume={old}"]) == [*expected, f"resume={old}"]


def test_what_is_typed_now_wins(old: Path) -> None:
    now = words([f"resume={old}", "trainer.max_epochs=9"])
    assert now == [
        "optimizer=lion",
        "optimizer.lr=0.01",
        "+callbacks.more=null",
        f"resume={old}",
        "trainer.max_epochs=9",
    ]


def test_a_group_that_is_typed_now_takes_the_place_of_all_its_keys(old: Path) -> None:
    assert words([f"resume={old}", "optimizer=adamw"])[:2] == ["trainer.max_epochs=3", "+callbacks.more=null"]


def test_a_key_is_known_however_it_is_marked(old: Path) -> None:
    assert "+callbacks.more=null" not in words([f"resume={old}", "++callbacks.more=1"])
    assert "+callbacks.more=null" not in words([f"resume={old}", "~callbacks.more"])


def test_words_of_one_start_are_not_repeated(old: Path) -> None:
    record = old / ".hydra" / "overrides.yaml"
    record.write_text(
        "- resume=older\n- mode=test\n- run_dir=x\n- hydra.verbose=true\n- hydra/launcher=basic\n- seed=1\n"
    )
    assert words([f"resume={old}"]) == ["seed=1", f"resume={old}"]


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "elsewhere.ckpt"])
def test_a_checkpoint_says_it_too(old: Path, name: str) -> None:
    (old / ".hydra" / "overrides.yaml").unlink()
    (old / "checkpoints").mkdir()
    path = old / name
    torch.save({"stepsize": {"format": 1, "version": "0", "config": {}, "words": ["seed=7"]}}, path)
    assert words([f"resume={path}"]) == ["seed=7", f"resume={path}"]


@pytest.mark.parametrize(
    "typed",
    [["seed=1"], ["resume=auto", "run_dir=x"], ["resume=latest"], ["resume=null"], ["resume=nowhere"], ["--help"]],
    ids=" ".join,
)
def test_nothing_is_added_where_no_run_is_named(typed: list[str]) -> None:
    assert words(typed) == typed


def test_nothing_is_added_to_several_runs(old: Path) -> None:
    assert words(["-m", f"resume={old}"]) == ["-m", f"resume={old}"]


@pytest.mark.parametrize(
    "word", ["+callbacks.x={_target_: os.system}", "optimizer._target_=some.Class", "name=${oc.env:HOME}"]
)
def test_what_a_file_would_have_called_is_to_be_typed_again(old: Path, word: str) -> None:
    (old / ".hydra" / "overrides.yaml").write_text(f"- seed=1\n- '{word}'\n")
    with pytest.raises(ConfigError, match="calls what a file names; type it again if you trust"):
        words([f"resume={old}"])


def test_what_is_called_may_be_typed_again(old: Path) -> None:
    (old / ".hydra" / "overrides.yaml").write_text("- optimizer=custom\n- optimizer._target_=some.Class\n")
    typed = [f"resume={old}", "optimizer._target_=some.Class"]
    assert words(typed) == ["optimizer=custom", *typed]


def test_a_damaged_checkpoint_adds_nothing_and_is_left_to_the_run(tmp_path: Path) -> None:
    path = tmp_path / "file.ckpt"
    path.write_bytes(b"no checkpoint")
    assert words([f"resume={path}"]) == [f"resume={path}"]
