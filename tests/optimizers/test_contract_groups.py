"""What holds for every optimizer of the table: groups, the learning rate, and the refusal of bad numbers."""

import inspect
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stepsize.bounds import Interval
from stepsize.optimizers import OPTIMIZERS
from stepsize.signature import load

Make = partial[Optimizer]
Same = Callable[[dict[str, Tensor], dict[str, Tensor]], bool]
SEVERAL = 6


def two_groups(it: Any, **second: Any) -> list[dict[str, Any]]:
    """The matrix and the kernel, and behind them the others with values of their own."""
    first, *others = list(it.parameters.items())[1:]
    return [{"params": [("matrix", it.parameters["matrix"]), first]}, {"params": others, **second}]


def test_groups_with_the_same_numbers_are_one_group(make: Make, problem: Any) -> None:
    one, other = problem(torch.float64), problem(torch.float64)
    one.run(make(list(one.parameters.items())), SEVERAL)
    other.run(make(two_groups(other)), SEVERAL)
    torch.testing.assert_close(other.values(), one.values(), rtol=1e-12, atol=1e-12)


def test_a_group_with_lr_0_stays_and_the_other_moves(make: Make, problem: Any) -> None:
    it = problem()
    start = it.values()
    it.run(make(two_groups(it, lr=0.0)), SEVERAL)
    stayed = [name for name, value in it.values().items() if torch.equal(value, start[name])]
    assert stayed == ["vector", "scalar", "late"]


def test_the_lr_is_read_at_every_step(make: Make, problem: Any, same: Same) -> None:
    changed, unchanged = problem(), problem()
    optimizers = [make(changed), make(unchanged)]
    changed.run(optimizers[0], 1)
    unchanged.run(optimizers[1], 1)
    for group in optimizers[0].param_groups:
        group["lr"] *= 0.5
    changed.run(optimizers[0], 1)
    unchanged.run(optimizers[1], 1)
    assert not same(changed.values(), unchanged.values())


def test_a_larger_lr_goes_further(make: Make, problem: Any) -> None:
    distances = []
    for factor in (1, 2):
        it = problem(torch.float64, noise=0)
        optimizer, start = make(it), it.values()
        for group in optimizer.param_groups:
            group["lr"] *= factor / 64
        it.run(optimizer, 3)
        distances.append(sum(float((p - start[n]).abs().sum()) for n, p in it.values().items()))
    assert distances[1] > 1.5 * distances[0]


def test_a_group_has_its_own_weight_decay(decaying: Make, problem: Any) -> None:
    norms = []
    for decay in (0.0, 1.0):
        it = problem(torch.float64)
        it.curvature = {name: 0 * c for name, c in it.curvature.items()}  # where the loss pulls nowhere, decay does
        it.run(decaying(two_groups(it, weight_decay=decay), weight_decay=0.0), SEVERAL)
        norms.append({name: float(p.norm()) for name, p in it.values().items()})
    assert [name for name in norms[0] if norms[1][name] < norms[0][name]] == ["vector", "scalar", "late"]


def test_a_group_that_is_added_later_is_stepped(make: Make, problem: Any) -> None:
    it = problem()
    first, second = two_groups(it)
    optimizer, start = make([first]), it.values()
    it.run(optimizer, 2)
    optimizer.add_param_group(second)
    it.run(optimizer, SEVERAL)
    assert [name for name, value in it.values().items() if torch.equal(value, start[name])] == []


def test_lr_as_a_tensor_is_lr_as_a_number(make: Make, problem: Any) -> None:
    one, other = problem(torch.float64), problem(torch.float64)
    one.run(make(one, lr=2.0**-7), SEVERAL)  # exact in float32
    other.run(make(other, lr=torch.tensor(2.0**-7)), SEVERAL)
    torch.testing.assert_close(other.values(), one.values(), rtol=1e-6, atol=1e-6)  # torch then computes in float32


def test_the_order_of_parameters_does_not_matter(noiseless: Make, problem: Any) -> None:
    one, other = problem(torch.float64), problem(torch.float64)
    one.run(noiseless(one), SEVERAL)
    other.run(noiseless(reversed(list(other))), SEVERAL)
    torch.testing.assert_close(other.values(), one.values(), rtol=1e-9, atol=1e-9)  # sums in another order


def test_a_negative_lr_is_refused(make: Make, problem: Any) -> None:
    with pytest.raises(ValueError, match=r"(?i)(lr|learning rate).*-1"):
        make(problem(), lr=-1.0)


def test_a_parameter_of_two_groups_is_refused(make: Make) -> None:
    p = nn.Parameter(torch.ones(4, 3))
    with pytest.raises(ValueError, match="more than one parameter group"):
        make([{"params": [p]}, {"params": [p]}])


def _refused_values(interval: Interval) -> list[float]:
    """NaN, and what lies beyond each end or on it."""
    low = [interval.low] if interval.ends[0] == "(" else []
    high = [interval.high] if interval.ends[1] == ")" else []
    beyond = [interval.low - 1, -math.inf, interval.high + 1, math.inf]
    return [
        math.nan,
        *{v for v in [*low, *high, *beyond] if not (interval.low <= v <= interval.high) or v in low + high},
    ]


def _refusals() -> Iterator[Any]:
    """Every number of ours with values that are out of its range."""
    for word, path in OPTIMIZERS.items():
        cls: Any = load(path)
        for name, interval in getattr(cls, "ranges", {}).items():
            default = inspect.signature(cls).parameters[name].default
            for index, item in enumerate([interval] if isinstance(interval, Interval) else interval):
                for bad in _refused_values(item):
                    if isinstance(interval, Interval):
                        yield pytest.param(cls, name, bad, name, float(bad), id=f"{word}-{name}={bad}")
                    else:
                        pair = (*default[:index], bad, *default[index + 1 :])
                        yield pytest.param(
                            cls, name, pair, f"{name}[{index}]", float(bad), id=f"{word}-{name}[{index}]={bad}"
                        )


REFUSALS = list(_refusals())


def _refusals_of_types() -> Iterator[Any]:
    """Every flag and every whole number of ours with a value of another type, which Python would take for one."""
    for word, path in OPTIMIZERS.items():
        cls: Any = load(path)
        ranges = getattr(cls, "ranges", {})
        whole = [name for name, i in ranges.items() if isinstance(i, Interval) and i.whole]
        flags = [n for n, p in inspect.signature(cls).parameters.items() if ranges and p.annotation in (bool, "bool")]
        for names, bad, wanted in ((whole, 5.0, "a whole number"), (flags, "no", "True or False")):
            yield from (pytest.param(cls, name, bad, wanted, id=f"{word}-{name}={bad}") for name in names)


@pytest.mark.parametrize(("cls", "name", "value", "wanted"), list(_refusals_of_types()))
def test_a_value_of_another_type_is_refused_by_name_and_value(
    problem: Any, cls: Any, name: str, value: Any, wanted: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be {wanted}, got {value!r}$"):
        cls(problem(), **{name: value})


@pytest.mark.parametrize(("cls", "name", "value", "said", "bad"), REFUSALS)
def test_a_number_out_of_its_range_is_refused_by_name_and_value(
    problem: Any, cls: Any, name: str, value: Any, said: str, bad: float
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        cls(problem(), **{name: value})
    assert str(caught.value).startswith(f"{said} must be ")
    assert str(caught.value).endswith(f"got {bad}")


@pytest.mark.parametrize(("cls", "name", "value", "said", "bad"), REFUSALS)
def test_a_group_with_a_number_out_of_its_range_is_not_added(
    problem: Any, cls: Any, name: str, value: Any, said: str, bad: float
) -> None:
    first, second = two_groups(problem())
    optimizer = cls([first])
    before = optimizer.state_dict()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        optimizer.add_param_group(second | {name: value})
    assert str(caught.value).startswith(f"{said} must be ")
    assert optimizer.state_dict() == before


def test_no_number_of_ours_may_be_nan(ours: Make, problem: Any) -> None:
    given = {name: value for name, value in ours.keywords.items() if isinstance(value, float)}
    assert "lr" in given
    for name in given:
        with pytest.raises(ValueError, match=rf"^{name} must be .* got nan$"):
            ours(problem(), **{name: math.nan})


def test_every_number_of_ours_has_a_range(ours: Make) -> None:
    arguments = inspect.signature(ours.func).parameters.values()
    numbers = {p.name for p in arguments if isinstance(p.default, (int, float, tuple)) and type(p.default) is not bool}
    assert numbers - set(ours.func.ranges) == set()  # type: ignore[attr-defined]


def test_a_word_is_no_number(ours: Make, problem: Any) -> None:
    with pytest.raises(ValueError, match=r"^lr must be a number, got '0\.1'$"):
        ours(problem(), lr="0.1")


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [("prodigy", "d0", 1e-2), ("perturbed_sgd", "radius", 100.0), ("prodigy", "betas", (0, 0))],
)
def test_a_number_of_all_groups_may_not_differ_in_one(word: str, name: str, value: Any) -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = load(OPTIMIZERS[word])([first])
    with pytest.raises(ValueError, match=f"^{name} is one for all groups, .* in the first, got "):
        optimizer.add_param_group({"params": [second], name: value})
    assert len(optimizer.param_groups) == 1
