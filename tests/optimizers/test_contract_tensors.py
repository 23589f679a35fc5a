"""What holds for every optimizer of the table: which tensors it takes, and what it refuses."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stepsize.optimizers import execution
from stepsize.optimizers.compilation import CompiledRule

Make = partial[Optimizer]
Same = Callable[[dict[str, Tensor], dict[str, Tensor]], bool]
SEVERAL = 6


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a state, at any depth."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in tensors_in(item)] if isinstance(value, (list, tuple)) else []


def test_bfloat16_parameters_train_and_stay_so(make: Make, problem: Any) -> None:
    it, exact = (
        problem(torch.bfloat16, scale=0, noise=0),
        problem(torch.float64, noise=0),
    )  # from 0, where no step is too small for it
    it.run(make(it, lr=make.keywords["lr"] / 16), SEVERAL)  # the ratio of LARS begins at 1
    assert {p.dtype for p in it} == {torch.bfloat16}
    losses = []
    for values in ({name: torch.zeros_like(p) for name, p in it.values().items()}, it.values()):
        for name, value in values.items():
            exact.parameters[name].data.copy_(value)
        losses.append(exact.loss(values).item())
    assert losses[1] < losses[0]


def test_our_state_of_bfloat16_parameters_has_32_bits_and_keeps_them(compilable: Make, problem: Any) -> None:
    it = problem(torch.bfloat16)
    optimizer = compilable(it)
    it.run(optimizer, SEVERAL)
    loaded = compilable(it)
    loaded.load_state_dict(optimizer.state_dict())
    for state in (*optimizer.state.values(), *loaded.state.values()):
        assert {t.dtype for t in tensors_in(state) if t.is_floating_point()} <= {torch.float32}


def test_float64_parameters_have_a_float64_state(make: Make, problem: Any) -> None:
    it = problem(torch.float64)
    optimizer = make(it)
    it.run(optimizer, SEVERAL)
    kept = [t.dtype for t in tensors_in(list(optimizer.state.values())) if t.ndim > 0 and t.is_floating_point()]
    assert {p.dtype for p in it} | set(kept) == {torch.float64}


def test_parameters_of_two_dtypes_are_stepped_as_if_alone(make: Make, problem: Any) -> None:
    it = problem(torch.float64)
    it.parameters["vector"] = nn.Parameter(it.parameters["vector"].detach().float())
    start = it.values()
    it.run(make(it), SEVERAL)
    assert [p.dtype for p in it].count(torch.float32) == 1
    assert [name for name, value in it.values().items() if torch.equal(value, start[name])] == []


@pytest.mark.parametrize(
    "laid",
    [
        pytest.param(lambda p: p.contiguous(memory_format=torch.channels_last), id="channels_last"),
        pytest.param(lambda p: p.transpose(0, 1).contiguous().transpose(0, 1), id="transposed"),
        pytest.param(lambda p: torch.stack([p, p], -1)[..., 0], id="strided"),
    ],
)
def test_the_layout_of_a_parameter_does_not_matter(make: Make, problem: Any, laid: Callable[[Tensor], Tensor]) -> None:
    one, other = problem(torch.float64), problem(torch.float64)
    kernel = nn.Parameter(laid(other.parameters["kernel"].detach()))
    assert kernel.stride() != one.parameters["kernel"].stride()
    other.parameters["kernel"] = kernel
    one.run(make(one), SEVERAL)
    other.run(make(other), SEVERAL)
    torch.testing.assert_close(other.values(), one.values(), rtol=1e-12, atol=1e-12)


def test_the_layout_of_a_gradient_does_not_matter(make: Make, problem: Any) -> None:
    one, other = problem(torch.float64), problem(torch.float64)
    one.run(make(one), SEVERAL)
    kernel = other.parameters["kernel"]

    def lay() -> None:
        kernel.grad = kernel.grad.contiguous(memory_format=torch.channels_last)

    other.run(make(other), SEVERAL, then=lay)
    torch.testing.assert_close(other.values(), one.values(), rtol=1e-12, atol=1e-12)


def test_an_empty_parameter_changes_nothing_for_the_others(make: Make, problem: Any) -> None:
    one, other = problem(torch.float64), problem(torch.float64)
    one.run(make(one), SEVERAL)
    empty = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
    other.run(make([*other, empty]), SEVERAL, then=lambda: setattr(empty, "grad", torch.zeros_like(empty)))
    torch.testing.assert_close(other.values(), one.values(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_small_parameters_are_stepped_alike_in_one_vector_and_one_by_one(
    ours: Make, problem: Any, same: Same, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    packed, single = problem(dtype), problem(dtype)
    monkeypatch.setattr(execution, "FEWEST", 1)
    packed.run(ours(packed), SEVERAL)
    monkeypatch.setattr(execution, "FEWEST", len(list(single)) + 1)
    single.run(ours(single), SEVERAL)
    assert same(packed.values(), single.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of the compiler's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_compiled_and_eager_agree(
    compilable: Make, problem: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not CompiledRule.failed  # or both would be eager
    monkeypatch.setattr(execution, "FEWEST", 100)  # packed, a rule with a norm is eager
    eager, compiled = problem(dtype, scale=0.0), problem(dtype, scale=0.0)  # so that a parameter is how far it moved
    eager.run(compilable(eager, compiled=False), SEVERAL)
    compiled.run(compilable(compiled, compiled=True), SEVERAL)
    # A compiled rule contracts a·b + c into one rounding and its numbers are float32; several steps add up.
    tolerance = 16 * torch.finfo(dtype).eps
    for name, moved in eager.values().items():
        largest = moved.abs().max()
        assert largest > 0
        torch.testing.assert_close(compiled.values()[name], moved, rtol=tolerance, atol=float(tolerance * largest))


def test_a_sparse_gradient_is_refused_and_nothing_changed(ours: Make, problem: Any, same: Same) -> None:
    it = problem()
    optimizer, before = ours(it), it.values()
    late = it.parameters["late"]

    def make_sparse() -> None:
        late.grad = late.grad.to_sparse()

    with pytest.raises(RuntimeError, match=f"{type(optimizer).__name__} .*sparse"):
        it.run(optimizer, 1, then=make_sparse)
    assert same(it.values(), before)
    assert not optimizer.state


def test_a_complex_parameter_is_refused(ours: Make, problem: Any) -> None:
    with pytest.raises(ValueError, match=f"{ours.func.__name__} .*complex"):  # type: ignore[attr-defined]
        ours([*problem(), nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))])


def test_a_group_with_a_complex_parameter_is_not_added(ours: Make, problem: Any) -> None:
    optimizer = ours(problem())
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match="complex"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))]})
    assert optimizer.state_dict() == before
