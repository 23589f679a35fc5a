from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from stepsize.build import plain
from stepsize.errors import ConfigError
from stepsize.resume import checkpoint, keep_best

Composed = Callable[..., DictConfig]


@pytest.fixture
def old(composed: Composed, tmp_path: Path) -> Path:
    """The folder of a run that has been."""
    folder = tmp_path / "old" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"stepsize": {"config": plain(composed())}}, folder / "last.ckpt")
    return folder.parent


def test_a_run_starts_anew_unless_told(composed: Composed) -> None:
    assert checkpoint(composed()) is None


def test_a_run_goes_on_from_a_folder_and_from_a_file(composed: Composed, old: Path) -> None:
    last = old / "checkpoints" / "last.ckpt"
    assert checkpoint(composed(f"resume={old}")) == checkpoint(composed(f"resume={last}")) == last


def test_a_folder_without_a_checkpoint_is_refused(composed: Composed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no checkpoint .*last\.ckpt"):
        checkpoint(composed(f"resume={tmp_path}"))


@pytest.mark.parametrize("word", ["trainer.max_epochs=99", "schedule=linear", "task.label_smoothing=0.1"])
def test_what_may_change_is_let_through(composed: Composed, old: Path, word: str) -> None:
    assert checkpoint(composed(f"resume={old}", word)) == old / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimizer.lr=0.5", "optimizer.lr was 0.001 and is now 0.5"),
        ("optimizer=momentum", "optimizer._target_ was torch.optim.AdamW and is now torch.optim.SGD"),
        ("model.widths=[32]", r"model.widths was \[64\] and is now \[32\]"),
        ("data.batch_size=8", "data.batch_size was 32 and is now 8"),
        ("param_groups.layer_decay=0.5", "param_groups.layer_decay was 1.0 and is now 0.5"),
        ("seed=1", "data.seed was 0 and is now 1"),
    ],
)
def test_what_the_state_was_made_with_may_not_change(composed: Composed, old: Path, word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        checkpoint(composed(f"resume={old}", word))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", {"state_dict": {}}], ids=["empty", "text", "stranger"])
def test_what_is_no_checkpoint_of_ours_is_refused(composed: Composed, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "file.ckpt"
    write = path.write_bytes if isinstance(content, bytes) else lambda value: torch.save(value, path)
    write(content)
    with pytest.raises(ConfigError, match=r"file.ckpt is damaged, or no checkpoint of this recipe"):
        checkpoint(composed(f"resume={path}"))


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(composed: Composed, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"stepsize": {"config": Attack()}}, tmp_path / "file.ckpt")
    with pytest.raises(ConfigError, match="no checkpoint of this recipe"):
        checkpoint(composed(f"resume={tmp_path / 'file.ckpt'}"))
    assert not (tmp_path / "ran").exists()


def test_the_best_so_far_is_taken_along_into_another_folder(old: Path, tmp_path: Path) -> None:
    (old / "checkpoints" / "best.ckpt").write_bytes(b"best")
    keep_best(old / "checkpoints" / "last.ckpt", tmp_path / "new")
    assert (tmp_path / "new" / "checkpoints" / "best.ckpt").read_bytes() == b"best"
