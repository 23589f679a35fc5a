import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from stepsize.schedules import SCHEDULES

from .cases import factory

CONF = Path(__file__).parents[2] / "conf" / "schedule"
COMPOSED = {"warmup_cosine", "warmup_linear"}


def test_every_word_has_a_yaml_and_every_yaml_a_word() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == set(SCHEDULES) | COMPOSED


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_yaml_says_what_it_is_in_its_first_line(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("word", SCHEDULES)
def test_factory_is_named_as_the_word(word: str) -> None:
    assert factory(word).__name__ == word


@pytest.mark.parametrize("word", SCHEDULES)
def test_every_argument_is_annotated_and_has_a_default(word: str) -> None:
    parameters = inspect.signature(factory(word)).parameters.values()
    assert all(inspect.Parameter.empty not in (p.annotation, p.default) for p in parameters)


@pytest.mark.parametrize("word", SCHEDULES)
def test_docstring_defines_step_0_the_last_step_and_after(word: str) -> None:
    text = " ".join((factory(word).__doc__ or "").lower().split())
    assert all(moment in text for moment in ("step 0", "last step", "after"))


def test_listing_the_words_imports_no_schedule() -> None:
    code = "import sys, stepsize.schedules; print([m for m in sys.modules if m.startswith('stepsize.schedules.')])"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == "[]"


def test_schedules_import_the_standard_library_alone() -> None:
    code = "import importlib, sys\nfrom stepsize.schedules import SCHEDULES\n" + (
        "for name in SCHEDULES.values(): importlib.import_module(name.rsplit('.', 1)[0])\n"
        "import stepsize.schedules.observer\n"
        "print({'torch', 'numpy', 'lightning', 'hydra', 'omegaconf'} & set(sys.modules))"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == "set()"
