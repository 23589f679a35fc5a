import importlib.util
import re
import sys
from types import ModuleType

import pytest

from stepsize.config import CONF


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CONF.parent / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load("bench_overhead")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What one turn over one epoch prints."""
    words = [*script.WORKLOADS["mlp"], "trainer=cpu", "trainer.max_epochs=1"]
    monkeypatch.setattr(script, "WORKLOADS", {"mlp": words})
    monkeypatch.setattr(script.logging, "disable", lambda level: None)
    monkeypatch.setattr(sys, "argv", ["bench_overhead.py", "mlp", "--repeats", "1"])
    script.main()
    lines: list[str] = capsys.readouterr().out.splitlines()
    return lines


def test_one_turn_prints_the_three_sides_and_their_ratios(said: list[str]) -> None:
    rows = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in said if re.match(r"\w+ +\d+ ", line)}
    assert list(rows) == ["loop", "recipe", "typical"]
    for step, to_loop, to_typical, whole, _ in rows.values():
        assert to_loop == pytest.approx(step / rows["loop"][0], abs=0.03)
        assert to_typical == pytest.approx(step / rows["typical"][0], abs=0.03)
        assert whole >= step > 0


def test_every_workload_composes() -> None:
    for words in script.WORKLOADS.values():
        assert script.composed(words).trainer.max_epochs >= 1
