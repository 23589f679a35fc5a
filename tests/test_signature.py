"""The static reader of signatures: equal to `inspect.signature`, and quick because it imports nothing."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from stepsize import config
from stepsize.signature import UnknownTargetError, load, parameters

TARGETS = sorted({target for _, table, _, _ in config._groups() for target in table.values()} | {config.WARMUP})

ZOO = {
    "zoo/__init__.py": "from zoo import birds as birds\nfrom .birds import Owl as Uhu\nfrom .deep.nest import Egg\n",
    "zoo/deep/__init__.py": "",
    "zoo/deep/nest.py": "from ..birds import Bird\nfrom .. import birds\n\nclass Egg(Bird): ...\n",
    "zoo/birds.py": """
from dataclasses import dataclass
from functools import partial
from typing import overload

SIZE = 3

class Bird:
    def __init__(self, wings: int = 2, *, name: "str | None" = None): ...

class Owl(Bird): ...

class Both(Bird, dict): ...

class Made:
    def __new__(cls, a: int = 1): return object.__new__(cls)
    def __init__(self, a: int = 1, b: int = 2): ...

@dataclass
class Data:
    a: int = 1

@overload
def twice(a: int) -> int: ...
@overload
def twice(a: str, b: int = 1) -> str: ...
def twice(a, b=2): ...

def every_kind(a, b=1, /, c=2, *d, e, f=-3.5, **g): ...

def again(a=1): ...
def again(b=2): ...

def computed(a=SIZE): ...

def replaced(a=1): ...
replaced = partial(replaced, a=2)

def this(self, other): ...
""",
}
BIRDS = ["Bird", "Owl", "Both", "Made", "Data", "twice", "every_kind", "again", "computed", "replaced", "this"]


def facts(found: list[inspect.Parameter]) -> list[tuple[str, object, object]]:
    return [(p.name, p.default, p.kind) for p in found]


def asked(target: str) -> list[tuple[str, object, object]]:
    return facts(list(inspect.signature(load(target)).parameters.values()))


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in ZOO.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("zoo", "zoo.birds", "zoo.deep", "zoo.deep.nest"):
        monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.mark.parametrize("target", TARGETS)
def test_reading_a_target_of_the_tables_equals_asking_it(target: str) -> None:
    assert facts(parameters(target)) == asked(target)


def test_registering_every_schema_imports_neither_torch_nor_lightning() -> None:
    code = (
        "import sys; from stepsize.config import register; register(); print(*{'torch', 'lightning'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    "target", [*(f"zoo.birds.{name}" for name in BIRDS), "zoo.Uhu", "zoo.Egg", "zoo.deep.nest.Egg"]
)
def test_reading_equals_asking_however_it_was_defined(target: str) -> None:
    assert facts(parameters(target)) == asked(target)


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("target", ["zoo.birds.Owl", "zoo.Uhu", "zoo.Egg", "zoo.birds.every_kind"])
def test_literal_signatures_are_read_without_an_import(target: str) -> None:
    parameters(target)
    assert not [module for module in sys.modules if module.startswith("zoo")]


@pytest.mark.usefixtures("zoo")
def test_an_annotation_is_its_source_text() -> None:
    assert [p.annotation for p in parameters("zoo.Egg")] == ["int", "'str | None'"]


@pytest.mark.usefixtures("zoo")
def test_a_package_that_imports_its_own_module_is_no_endless_search() -> None:
    with pytest.raises(TypeError, match="not a callable"):
        parameters("zoo.birds")


def test_a_compiled_callable_is_imported_and_asked() -> None:
    assert [p.name for p in parameters("math.copysign")] == ["x", "y"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nolibrary.Adam", "no module 'nolibrary' is installed"),
        ("torch.optim.Adamm", "there is no 'Adamm' in torch.optim"),
        ("torch.optim.nothing.Adam", "there is no 'nothing' in torch.optim"),
        ("Adam", "no module 'Adam' is installed"),
    ],
)
def test_an_unknown_target_is_named(target: str, message: str) -> None:
    with pytest.raises(UnknownTargetError, match=message):
        parameters(target)


def test_a_module_that_a_target_misses_is_not_mistaken_for_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy.py").write_text("import nolibrary\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="nolibrary"):
        load("needy.Thing")


def test_a_nested_attribute_is_loaded() -> None:
    assert load("torch.optim.Optimizer.step").__name__ == "step"
