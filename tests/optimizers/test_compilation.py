"""When a rule is compiled, how often, and what happens where that fails."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters

from stepsize.optimizers import compilation
from stepsize.optimizers.compilation import WORTH_COMPILING, WORTH_LOOKING, CompiledRule, pays
from stepsize.optimizers.execution import SMALL, execute
from stepsize.optimizers.lion import Lion

LARGE = 2 * WORTH_LOOKING


def halve_the_way(p: Tensor, g: Tensor, m: Tensor, *, rate: Any) -> None:
    """A rule of its own, coordinate by coordinate."""
    m.add_(g)
    p.sub_(m * rate)


def work_of(*sizes: int, tensors: int = 3, dtype: torch.dtype = torch.float32) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(size, generator=generator).to(dtype) for _ in range(tensors)] for size in sizes]


def run(work: list[list[Tensor]], **options: Any) -> list[Tensor]:
    given = {"compiled": False, "workspaces": {}} | options
    return execute(given.pop("rule", halve_the_way), work, {"rate": 0.5}, **given)


def equal(one: list[list[Tensor]], other: list[list[Tensor]]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def step(parameters: list[nn.Parameter], optimizer: Lion, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()


@pytest.fixture
def _uncompiled() -> Iterator[None]:
    """What was compiled, or has failed to be, is forgotten before and after."""

    def forget() -> None:
        CompiledRule.failed.clear()
        compilation._compiled.cache_clear()
        torch._dynamo.reset()

    forget()
    yield
    forget()


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [(None, False), (0, False), (int(WORTH_COMPILING / LARGE), False), (int(WORTH_COMPILING / LARGE) + 1, True)],
)
def test_on_a_cpu_compiling_pays_where_the_run_is_long(horizon: int | None, expected: bool) -> None:
    assert pays(torch.device("cpu"), LARGE, horizon) is expected


def test_on_a_cpu_compiling_a_small_networks_rule_never_pays() -> None:
    assert not pays(torch.device("cpu"), WORTH_LOOKING - 1, 10**9)


@pytest.mark.parametrize("device", ["meta"])
def test_where_nothing_was_measured_it_does_not_pay(device: str) -> None:
    assert not pays(torch.device(device), 60, 10**12)


def test_a_rule_that_gains_more_is_compiled_for_a_shorter_run() -> None:
    horizon = round(WORTH_COMPILING / LARGE / 5)
    assert pays(torch.device("cpu"), LARGE, horizon, saving=10.0)
    assert not pays(torch.device("cpu"), LARGE, horizon)


@pytest.mark.usefixtures("_uncompiled")
def test_a_failed_compilation_warns_once_and_steps_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise BackendCompilerFailed(lambda: None, RuntimeError("no compiler here"), None)

        return call

    monkeypatch.setattr(torch, "compile", fails)
    work, expected = work_of(3, SMALL + 1), work_of(3, SMALL + 1)
    run(expected)
    with pytest.warns(UserWarning, match="runs eagerly") as caught:
        run(work, compiled=True)
    assert len(caught) == 1
    run(expected)
    with warnings.catch_warnings(action="error"):
        run(work, compiled=True)
    assert equal(work, expected)


@pytest.mark.usefixtures("_uncompiled")
def test_an_error_of_the_rule_is_no_failed_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(p: Tensor, g: Tensor, m: Tensor, *, rate: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(torch, "compile", lambda rule, **_: rule)
    with pytest.raises(ZeroDivisionError):
        run(work_of(3), rule=broken, compiled=True)


@pytest.fixture
def graphs(_uncompiled: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The number of graphs so far; they are traced, and not built."""
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda _: lambda graph, *_, **__: graph.forward)
    before = counters["stats"]["unique_graphs"]
    return lambda: counters["stats"]["unique_graphs"] - before


def test_another_lr_and_another_step_compile_nothing_anew(graphs: Callable[[], int]) -> None:
    shapes = [(SMALL + 1,), (70, 80), (3,), (2, 3), (), (1,), (4, 5, 6, 7), (9,), (64, 3, 7, 7)]
    parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = Lion(parameters, lr=0.1, compiled=True)
    step(parameters, optimizer, 0)
    before = graphs()
    assert before > 0
    for t in range(1, 20):
        optimizer.param_groups[0]["lr"] = 0.1 / t
        optimizer.param_groups[0]["weight_decay"] = 0.01 * t
        step(parameters, optimizer, t)
    assert graphs() == before


def test_one_graph_serves_all_shapes(graphs: Callable[[], int]) -> None:
    run(work_of(*range(SMALL + 1, SMALL + 9)), compiled=True)
    assert graphs() == 1


def test_one_graph_serves_parameters_of_any_number_of_dimensions(graphs: Callable[[], int]) -> None:
    for shape in [(SMALL + 1,), (2, SMALL), (3, 1, SMALL), (2, 3, 4, SMALL), (1, 1, 1, 3, SMALL)]:
        run([[torch.ones(shape) for _ in range(3)]], compiled=True)
    assert graphs() == 1


def test_parameters_of_one_element_compile_nothing_anew(graphs: Callable[[], int]) -> None:
    for sizes in product([1, SMALL + 1], repeat=3):
        work, expected = work_of(*sizes), work_of(*sizes)
        run(work, compiled=True)
        run(expected)
        assert equal(work, expected)
    assert graphs() == 1


NO_COMPILER = """
import torch, warnings
from torch import nn
from stepsize.optimizers.lion import Lion
p = nn.Parameter(torch.ones(8))
optimizer = Lion([p], lr=0.25, compiled=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        p.grad = torch.ones(8)
        optimizer.step()
print(p.tolist() == [0.25] * 8, sum("torch.compile failed" in str(w.message) for w in caught))
"""


@pytest.mark.slow
def test_without_a_compiler_it_steps_eagerly_and_says_so_once(tmp_path: Path) -> None:
    environment = os.environ | {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", NO_COMPILER], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "True 1", done.stderr
