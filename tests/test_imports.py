"""Imports point one way, and the linter holds them there."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src" / "stepsize"
PLAIN = sorted(f for room in ("optimizers", "schedules", "models") for f in (SOURCE / room).rglob("*.py"))
LIGHTNING = sorted(f for room in ("data", "callbacks") for f in (SOURCE / room).rglob("*.py"))
UNCONFIGURED = [
    *PLAIN,
    SOURCE / "param_groups.py",
    *LIGHTNING,
    *sorted((SOURCE / "loggers").rglob("*.py")),
    SOURCE / "task.py",
]
# what composes and builds: nothing that it builds may know of it
BUILDERS = {"answers", "build", "check", "config", "optimizer_arguments", "preflight", "result", "run", "signature"}


def name(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def imports(path: Path) -> set[str]:
    """The dotted name of every module that a file imports, wherever in it; `from a import b` gives a.b as well."""
    return set(_imports(ast.parse(path.read_text())))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                yield "relative"


def libraries(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)} - sys.stdlib_module_names


def rooms(path: Path) -> set[str]:
    """The parts of stepsize that a file imports."""
    return {module.split(".")[1] for module in imports(path) if module.startswith("stepsize.")}


def test_there_is_something_to_look_at() -> None:
    assert {"optimizers/fused.py", "schedules/cosine.py", "models/gpt.py"} <= set(map(name, PLAIN))
    assert {"data/digits.py", "callbacks/monitor.py"} <= set(map(name, LIGHTNING))


@pytest.mark.parametrize("path", [*PLAIN, SOURCE / "param_groups.py"], ids=name)
def test_what_is_plain_imports_torch_and_the_standard_library_alone(path: Path) -> None:
    assert libraries(path) <= {"torch", "stepsize"}


@pytest.mark.parametrize("path", PLAIN, ids=name)
def test_what_is_plain_stays_in_its_room(path: Path) -> None:
    assert rooms(path) <= {path.parent.name, "bounds", "errors"}


def test_the_groups_of_parameters_need_no_other_room() -> None:
    assert rooms(SOURCE / "param_groups.py") <= {"errors"}


@pytest.mark.parametrize("path", UNCONFIGURED, ids=name)
def test_what_is_built_does_not_know_how_it_was_configured(path: Path) -> None:
    assert not libraries(path) & {"hydra", "omegaconf", "optuna"}


@pytest.mark.parametrize("path", UNCONFIGURED, ids=name)
def test_what_is_built_does_not_know_what_builds_it(path: Path) -> None:
    assert not rooms(path) & BUILDERS


@pytest.mark.parametrize("path", [f for f in LIGHTNING if "data" in f.parts], ids=name)
def test_data_know_neither_networks_nor_optimizers(path: Path) -> None:
    assert rooms(path) <= {"data", "errors"}


def test_one_file_calls_instantiate() -> None:
    calls = {f for f in SOURCE.rglob("*.py") if any(m.startswith("hydra.utils") for m in imports(f))}
    assert calls == {SOURCE / "build.py"}


def linted(tmp_path: Path, file: str, line: str) -> str:
    """What the linter says of the source once a line stands at the end of a file."""
    copytree(REPOSITORY / "src", tmp_path / "src", ignore=lambda *_: {"__pycache__"})
    (tmp_path / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text())
    with (tmp_path / "src" / "stepsize" / file).open("a") as source:
        source.write(line)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "src"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    return "\n".join(said for said in done.stdout.splitlines() if "TID251" in said)


def test_the_linter_has_nothing_to_say_of_the_source_as_it_is(tmp_path: Path) -> None:
    assert linted(tmp_path, "optimizers/__init__.py", "") == ""


@pytest.mark.parametrize(
    ("file", "library"),
    [
        *[
            (f"{room}/__init__.py", lib)
            for room in ("optimizers", "schedules", "models")
            for lib in ("hydra", "lightning")
        ],
        *[(f"{room}/__init__.py", lib) for room in ("data", "callbacks") for lib in ("hydra", "omegaconf", "optuna")],
        ("param_groups.py", "omegaconf"),
        ("optimizers/fused.py", "optuna"),
        ("lr_scheduler.py", "lightning"),
    ],
)
def test_the_linter_refuses_a_library_where_it_does_not_belong(tmp_path: Path, file: str, library: str) -> None:
    said = linted(tmp_path, file, f"import {library}\n")
    assert said.startswith(f"src/stepsize/{file}:")
    assert f"`{library}` is banned" in said


def test_the_linter_refuses_an_import_from_inside_a_banned_library(tmp_path: Path) -> None:
    said = linted(tmp_path, "optimizers/__init__.py", "from hydra.utils import instantiate\n")
    assert said.startswith("src/stepsize/optimizers/__init__.py:")
