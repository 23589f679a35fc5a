import re
import tomllib
from pathlib import Path

import stepsize
from stepsize.config import CONF

REPOSITORY = CONF.parent
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CONSTRAINTS = set(re.findall(r"^[\w.-]+==\S+$", (REPOSITORY / "constraints.txt").read_text(), re.M))


def test_the_version_is_said_once() -> None:
    assert PYPROJECT["project"]["version"] == stepsize.__version__


def test_uv_takes_the_versions_that_are_tested_together() -> None:
    assert set(PYPROJECT["tool"]["uv"]["constraint-dependencies"]) <= CONSTRAINTS


def test_every_dependency_is_constrained() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    wanted = [*PYPROJECT["project"]["dependencies"], *(requirement for extra in extras for requirement in extra)]
    names = {re.split(r"[\[=<>~]", requirement)[0] for requirement in wanted}
    constrained = {line.split("==")[0].lower() for line in CONSTRAINTS}
    assert names <= constrained


def test_every_dependency_says_why_it_is_there() -> None:
    lines = re.findall(r'^ +"[a-z0-9-]+[=<>~].*$', (REPOSITORY / "pyproject.toml").read_text(), re.M)
    unexplained = [line for line in lines if "#" not in line and line.strip().strip('",') not in CONSTRAINTS]
    assert len(lines) > 10
    assert unexplained == []


def test_the_two_commands_that_ci_runs_are_in_the_readme() -> None:
    commands = re.findall(r"^pip install .*$", Path(REPOSITORY / "README.md").read_text(), re.M)
    assert [command.split(" && ")[1].split()[0] for command in commands] == ["python", "pytest"]
