import subprocess
from collections.abc import Callable

from stepsize.config import CONF, choices
from stepsize.optimizers import OPTIMIZERS

GROUPS = ("optimizer", "schedule", "model", "data", "trainer", "logger", "callbacks", "experiment")


def test_help_lists_every_yaml_of_every_group(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    printed = command("--help").stdout
    lines = [choices(group) for group in GROUPS]
    assert [line for line in lines if line.rstrip() not in printed] == []
    assert [path.stem for group in GROUPS for path in (CONF / group).glob("*.yaml") if path.stem not in printed] == []


def test_a_group_s_line_holds_each_of_its_words() -> None:
    assert set(choices("optimizer").replace("optimizer=", "").split()) == {*OPTIMIZERS, "custom"}
