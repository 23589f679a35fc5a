from pathlib import Path

import pytest
import torch

from stepsize.errors import ConfigError
from stepsize.resume.again import words


def save(path: Path, *words: str) -> Path:
    """A checkpoint of a run that was started with these words."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = {"format": 1, "version": "0", "config": {}, "words": list(words)}
    torch.save({"global_step": 1, "epoch": 0, "stepsize": ours}, path)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder of a run."""
    words = ("optimizer=lion", "optimizer.lr=0.01", "trainer.max_epochs=3", "+callbacks.more=null", "run_dir=old")
    return save(tmp_path / "old" / "checkpoints" / "last.ckpt", *words).parents[1]


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


def test_words_of_one_start_are_not_repeated(tmp_path: Path) -> None:
    path = save(
        tmp_path / "x.ckpt",
        "resume=older",
        "mode=test",
        "run_dir=x",
        "hydra.verbose=true",
        "hydra/launcher=basic",
        "a=1",
    )
    assert words([f"resume={path}"]) == ["a=1", f"resume={path}"]


@pytest.mark.parametrize("mark", ["resume=", "+resume=", "++resume="])
@pytest.mark.parametrize("quote", ["", "'"])
def test_a_checkpoint_says_it_too_however_it_is_named(tmp_path: Path, mark: str, quote: str) -> None:
    typed = f"{mark}{quote}{save(tmp_path / 'elsewhere.ckpt', 'seed=7')}{quote}"
    assert words([typed]) == ["seed=7", typed]


def test_where_the_last_checkpoint_is_damaged_the_one_before_says_it(old: Path) -> None:
    save(old / "checkpoints" / "previous.ckpt", "seed=7")
    (old / "checkpoints" / "last.ckpt").write_bytes(b"half")
    assert words([f"resume={old}"]) == ["seed=7", f"resume={old}"]


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
    "word",
    [
        "+callbacks.x={_target_: os.system}",
        "optimizer._target_=some.Class",
        "name=${oc.env:HOME}",
        "--config-dir=theirs",
        "-cp=theirs",
        "-m",
    ],
)
def test_what_would_have_a_file_s_code_run_is_to_be_typed_again(tmp_path: Path, word: str) -> None:
    path = save(tmp_path / "file.ckpt", "seed=1", word)
    with pytest.raises(ConfigError, match="has code that a file names run; type it again if you trust"):
        words([f"resume={path}"])


def test_what_is_called_may_be_typed_again(tmp_path: Path) -> None:
    path = save(tmp_path / "file.ckpt", "optimizer=custom", "optimizer._target_=some.Class")
    typed = [f"resume={path}", "optimizer._target_=some.Class"]
    assert words(typed) == ["optimizer=custom", *typed]


def test_a_damaged_checkpoint_adds_nothing_and_is_left_to_the_run(tmp_path: Path) -> None:
    path = tmp_path / "file.ckpt"
    path.write_bytes(b"no checkpoint")
    assert words([f"resume={path}"]) == [f"resume={path}"]
