"""What torch.compile made is called past its guards for forms that have passed them, and for no others."""

import gc
import weakref
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from stepsize.optimizers.compilation import CompiledRule
from stepsize.optimizers.execution import SMALL, execute
from stepsize.optimizers.lion import Lion
from stepsize.optimizers.perturbed_sgd import PerturbedSGD
from stepsize.optimizers.unguarded import Unguarded

OUTSIDE = torch.tensor([2.0])


def add(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    p, g = tensors
    p.add_(g * others[0])


def total(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    add(tensors, others)
    return tensors[0].sum()


def outside(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    add(tensors, others)
    return OUTSIDE


def with_outside(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    p, g = tensors
    p.add_(g * others[0] * OUTSIDE)


class Counted:
    """A function, unguarded, its graphs not built, and how often its guards were asked."""

    def __init__(self, function: Any, constants: Sequence[Tensor] = ()) -> None:
        self.asked = 0
        self._call = Unguarded(function, constants, {})
        guarded = self._call._guarded

        def asked(*arguments: Any) -> Any:
            self.asked += 1
            return guarded(*arguments)

        self._call._guarded = asked

    def __call__(self, size: int, scale: float = 1.0, form: Any = None) -> tuple[list[float], float | None]:
        p, g = torch.arange(float(size)), torch.full((size,), scale)
        with torch.no_grad():
            returned = self._call(form or size, [p, g], [torch.tensor(2.0 * scale)])
        return p.tolist(), None if returned is None else returned.item()


@pytest.fixture
def _not_built(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda _: lambda graph, *_, **__: graph.forward)
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_not_built")
@pytest.mark.parametrize("function", [add, total, outside, with_outside])
def test_it_computes_what_the_function_does(function: Any) -> None:
    call = Counted(function, [OUTSIDE])
    twice = 2 if function is with_outside else 1
    for size in (3, 5, 5, 3, 7, 3):
        for scale in (1.0, 3.0):
            moved, returned = call(size, scale)
            assert moved == [i + 2 * scale * scale * twice for i in range(size)]
            assert returned == (sum(moved) if function is total else 2.0 if function is outside else None)


@pytest.mark.usefixtures("_not_built")
def test_guards_are_asked_once_for_each_form() -> None:
    call, before = Counted(total), counters["stats"]["unique_graphs"]
    for size in (3, 5, 5, 3, 7, 3):
        call(size)
    assert (call.asked, counters["stats"]["unique_graphs"] - before) == (3, 1)


@pytest.mark.usefixtures("_not_built")
def test_what_it_reads_unknown_to_us_is_left_to_the_guards() -> None:
    call = Counted(with_outside)
    for _ in range(3):
        assert call(3)[0] == [4.0, 5.0, 6.0]
    assert call.asked == 3


@pytest.mark.usefixtures("_not_built")
def test_told_to_run_eagerly_it_remembers_nothing() -> None:
    call = Counted(total)
    with torch.compiler.set_stance("force_eager"):
        assert call(3) == call(3) == ([2.0, 3.0, 4.0], 9.0)
    assert call.asked == 2
    for _ in range(3):
        assert call(3) == ([2.0, 3.0, 4.0], 9.0)
    assert call.asked == 3


@pytest.mark.usefixtures("_not_built")
def test_with_more_arguments_it_is_another_form() -> None:
    call = Unguarded(lambda tensors, others: tensors[0].add_(sum(others)), (), {})
    for count in (1, 2, 0, 1, 2):
        p = torch.zeros(3)
        with torch.no_grad():
            call("form", [p], [torch.ones(3)] * count)
        assert p.tolist() == [count] * 3


@pytest.mark.usefixtures("_not_built")
def test_no_argument_is_held() -> None:
    call = Unguarded(add, (), {})
    for _ in range(2):  # when it is met and when it is known
        tensors = [torch.zeros(1000), torch.ones(1000)]
        others = [torch.tensor(2.0)]
        held = [weakref.ref(t.untyped_storage()) for t in (*tensors, *others)]
        with torch.no_grad():
            call("form", tensors, others)
        del tensors, others
        gc.collect()
        assert [storage() for storage in held] == [None] * 3


@pytest.mark.usefixtures("_not_built")
def test_an_argument_that_is_returned_is_the_one_that_was_given() -> None:
    call = Unguarded(lambda tensors: tensors[0].add_(tensors[1]), (), {})
    for _ in range(3):
        p, g = torch.ones(3), torch.ones(3)
        with torch.no_grad():
            returned = call("form", [p, g])
        assert returned is not None
        assert (returned.tolist(), p.tolist()) == ([2.0] * 3, [2.0] * 3)


def scaled(p: Tensor, g: Tensor, m: Tensor, *, rate: Any) -> None:
    m.add_(g)
    p.sub_(m * rate)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of the compiler's own
def test_another_dtype_of_a_state_or_a_coefficient_and_other_threads_are_met_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    met, meet = [], Unguarded._meet

    def counted(self: Unguarded, form: Any, arguments: Any) -> Tensor | None:
        met.append(form)
        return meet(self, form, arguments)

    monkeypatch.setattr(Unguarded, "_meet", counted)
    threads = torch.get_num_threads()
    kinds = [torch.float32, torch.float64]
    try:
        for of_state, of_rate, number in [*product(kinds, kinds, (1, 2)), *product(kinds, kinds, (1, 2))]:
            torch.set_num_threads(number)
            for size in (SMALL + 1, 2 * SMALL):
                moved = []
                for compiled in (True, False):
                    p, g, m = torch.linspace(0, 1, size), torch.ones(size), torch.linspace(1, 2, size, dtype=of_state)
                    rate = torch.tensor(0.5, dtype=of_rate)
                    with torch.no_grad():
                        execute(scaled, [[p, g, m]], {"rate": rate}, compiled=compiled, workspaces={})
                    moved.append((p, m))
                torch.testing.assert_close(*moved)
    finally:
        torch.set_num_threads(threads)
    assert len([form for form in met if form[0] != "example"]) == 2 * 2 * 2 * 2  # each once, in both rounds
    assert not CompiledRule.failed  # or both would be eager


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of the compiler's own
def test_a_rules_guards_are_asked_for_no_step_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(2 * SMALL,), (3, SMALL), (SMALL + 1,), (2, 2, 64, 65), (5,), (7, 3)]
    both = [[torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2)]
    one, other = (PerturbedSGD(ps, lr=0.1, compiled=c) for ps, c in zip(both, (True, False), strict=True))
    for t in range(4):
        for ps, optimizer in zip(both, (one, other), strict=True):
            for p in ps:
                p.grad = torch.full_like(p, t - 1.5)
            optimizer.step()
        assert not CompiledRule.failed  # or both would be eager
        torch.testing.assert_close(*both)
        monkeypatch.setattr(Unguarded, "_meet", lambda *_: pytest.fail("a form that was met before"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of the compiler's own
def test_noise_that_comes_and_goes_is_another_form() -> None:
    sizes = [(300, torch.float32), (2 * SMALL, torch.float32), (2 * SMALL, torch.bfloat16)]
    moved = []
    for compiled in (True, False):
        ps = [torch.nn.Parameter(torch.zeros(size, dtype=dtype)) for size, dtype in sizes]
        optimizer = PerturbedSGD(ps, lr=1.0, compiled=compiled)
        norms = []
        for radius in (0.0, 1.0, 0.0, 1.0, 1.0, 0.0):
            optimizer.param_groups[0]["radius"] = radius
            for p in ps:
                p.data.zero_()
                p.grad = torch.zeros_like(p)
            optimizer.step()
            norms.append([float(p.detach().float().norm()) for p in ps])
        moved.append(torch.tensor(norms))
    assert not CompiledRule.failed  # or both would be eager
    torch.testing.assert_close(*moved, rtol=1e-3, atol=0)
    assert [bool(step.min() > 0) for step in moved[0]] == [False, True, False, True, True, False]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of the compiler's own
def test_a_state_of_another_size_is_refused_where_the_size_is_known_too() -> None:
    grown, other = (torch.nn.Parameter(torch.ones(n, 64)) for n in (1000, 1100))
    optimizer = Lion([grown, other], compiled=True)
    for p in (grown, other):
        p.grad = torch.ones_like(p)
    optimizer.step()
    grown.grad = None
    grown.data = torch.ones(1100, 64)  # its state has 1000 rows
    grown.grad = torch.ones_like(grown)
    with pytest.raises(RuntimeError, match="must match"):
        optimizer.step()
    assert not CompiledRule.failed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of the compiler's own
@pytest.mark.parametrize("size", [1, 100, SMALL + 1, 2 * SMALL])
@pytest.mark.parametrize("cls", [Lion, PerturbedSGD])
def test_autograd_sees_that_a_compiled_step_has_changed_the_parameter(cls: Any, size: int) -> None:
    p = torch.nn.Parameter(torch.ones(size + 2))  # of a size that no other test has made known
    optimizer = cls([p], lr=0.1, compiled=True)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        loss = (p * p).sum()
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    assert not CompiledRule.failed
