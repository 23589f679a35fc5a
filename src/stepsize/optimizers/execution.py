"""How a rule is executed: eagerly or compiled, small parameters packed into one vector."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

# In place: rule(p, g, *state, **coefficients). What it returns, a 0-d tensor or nothing, is collected.
Rule = Callable[..., Tensor | None]
Coefficient = float | bool | str | Tensor
Norm = Callable[[Tensor], Tensor]

# Below, in elements, a kernel's launch takes longer than its work, and copying in and out of one vector is cheaper.
SMALL = 4096
FEWEST = 4
_16_BITS = (torch.bfloat16, torch.float16)
_KEPT = 16  # workspaces; more means that other parameters have a gradient at each step
# Parameters times steps from which compiling, 10 s from an empty cache, is paid back on a CPU at the 0.25 to 1.5 ns
# that a compiled rule saves a parameter at every step (docs/benchmarks.md).
WORTH_COMPILING = 3e10


def pays(device: torch.device, size: int, horizon: int | None, saving: float = 1.0) -> bool:
    """Whether compiling a rule is worth its time: always on a GPU, on a CPU where the run is long enough.

    It depends on nothing that is measured while training, so that a run which is repeated takes the same arithmetic.

    Args:
        device: where the parameters lie.
        size: elements of an optimizer's parameters there.
        horizon: optimizer steps of the whole run; None where it is not known.
        saving: how many times as much a compiled step saves as those of most rules do.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    return horizon is not None and horizon * size * saving > WORTH_COMPILING


def execute(
    rule: Rule,
    work: Sequence[Sequence[Tensor]],
    coefficients: Mapping[str, Coefficient],
    *,
    compiled: bool,
    workspaces: "dict[Any, Workspace]",
) -> list[Tensor]:
    """Apply rule(p, g, *state, **coefficients), in place, to each (p, g, *state); returns what the rule returned.

    Args:
        rule: must not depend on the shape of what it is given, nor a coordinate on others but by `norm`: where a rule
            has a keyword of this name, norm(x) is the 2-norm over the parameter. Where it has a keyword `start`, that
            is the number of p's first coordinate as an int32: counted on from the coefficient of this name through
            large parameters, then small ones, packed or not, each in the order in which it lies in memory.
        work: tensors of one device and one dtype, those of a tuple alike in shape. g is not changed.
        coefficients: numbers become 0-d tensors when compiled, so that another value compiles nothing anew.
        compiled: through torch.compile; where that fails, eagerly, with one warning.
        workspaces: what is kept between steps for packing: several small parameters are one vector to the rule, and
            norm(x) then has each one's at each of its elements; begins empty.
    """
    small = [tensors for tensors in work if tensors[0].numel() <= SMALL]
    large = [tensors for tensors in work if tensors[0].numel() > SMALL]
    if len(small) < FEWEST or any(type(p) not in (Tensor, nn.Parameter) for p, *_ in small):
        return _run(rule, [*large, *small] if _numbered(rule) else work, coefficients, compiled)
    first = small[0][0]
    key = (rule, first.device, first.dtype, *(id(p) for p, *_ in small))
    if key not in workspaces:
        if len(workspaces) >= _KEPT:
            workspaces.clear()
        workspaces[key] = Workspace(small)
    with_vector = workspaces[key]
    vector = with_vector.gather(small)
    if "norm" in (rule.__kwdefaults__ or {}):
        packed = _run(rule, [vector], {**coefficients, "norm": with_vector.norm}, compiled=False)
        found = _run(rule, large, coefficients, compiled) + packed
    else:
        found = _run(rule, [*large, vector], coefficients, compiled)
    with_vector.scatter(small)
    return found


class Workspace:
    """Vectors that hold many small parameters, their gradients and their states side by side.

    Args:
        work: the tuples that will be packed.
    """

    def __init__(self, work: Sequence[Sequence[Tensor]]) -> None:
        self.owners = [p for p, *_ in work]  # kept alive: a workspace is found by their identity
        self.sizes = [p.numel() for p in self.owners]
        self.vectors = [t.new_empty(sum(self.sizes)) for t in work[0]]
        self.views = [
            [v.view(p.shape) for v, p in zip(torch.split(x, self.sizes), self.owners, strict=True)]
            for x in self.vectors
        ]
        self.lengths = torch.tensor(self.sizes, device=self.owners[0].device)

    def gather(self, work: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The vectors, filled."""
        for views, tensors in zip(self.views, zip(*work, strict=True), strict=True):
            torch._foreach_copy_(views, list(tensors))
        return self.vectors

    def norm(self, x: Tensor) -> Tensor:
        """The 2-norm of each parameter's part of a vector, as if it were alone, at each of its elements."""
        norms = torch._foreach_norm(torch.split(x, self.sizes))
        return torch.stack(norms).repeat_interleave(self.lengths, output_size=x.numel())

    def scatter(self, work: Sequence[Sequence[Tensor]]) -> None:
        """Copy all but the gradients back."""
        for index, (views, tensors) in enumerate(zip(self.views, zip(*work, strict=True), strict=True)):
            if index != 1:
                torch._foreach_copy_(list(tensors), views)


def _numbered(rule: Rule) -> bool:
    return "start" in (rule.__kwdefaults__ or {})


def _run(
    rule: Rule, work: Sequence[Sequence[Tensor]], coefficients: Mapping[str, Coefficient | Norm], compiled: bool
) -> list[Tensor]:
    found = []
    as_tensors = _tensors(coefficients, work[0][0]) if compiled and work else {}
    words = tuple(c for c in coefficients.values() if isinstance(c, (bool, str)))
    numbered = _numbered(rule)
    start: Any = coefficients["start"] if numbered else 0
    for tensors in work:
        vectors = _vectors(tensors) if numbered or (compiled and not _Failure.seen) else None
        if numbered:
            first = torch.tensor((start + 2**31) % 2**32 - 2**31, dtype=torch.int32)  # from 2³² on they begin anew
            coefficients, as_tensors = {**coefficients, "start": first}, {**as_tensors, "start": first}
            start += tensors[0].numel()
        if vectors is not None and compiled and not _Failure.seen:
            try:
                found.append(_compiled(rule, vectors[0].dtype, words)(*vectors, **as_tensors))
                torch.autograd.graph.increment_version(tensors[0])  # `data` hides the change from autograd
                continue
            except Exception as error:
                if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    raise
                _Failure.seen = True
                reason = str(error).strip().partition("\n")[0]
                warnings.warn(f"torch.compile failed, the optimizer runs eagerly: {reason}", stacklevel=2)
        found.append(_eagerly(rule, vectors if numbered and vectors is not None else tensors, coefficients))
        if numbered:
            torch.autograd.graph.increment_version(tensors[0])
    return [f for f in found if f is not None]


class _Failure:
    """Whether compiling has failed in this process: what has failed once is not tried again."""

    seen = False


def _eagerly(rule: Rule, tensors: Sequence[Tensor], coefficients: Mapping[str, Coefficient | Norm]) -> Tensor | None:
    return (_widened(rule) if tensors[0].dtype in _16_BITS else rule)(*tensors, **coefficients)


def _widened(rule: Rule) -> Rule:
    """The rule in float32, for a parameter of 16 bits and its gradient; it rounds once, at the end."""

    def widened(p: Tensor, g: Tensor, *state: Tensor, **coefficients: Any) -> Tensor | None:
        wide = p.float()
        found = rule(wide, g.float(), *state, **coefficients)
        p.copy_(wide)
        return found

    return widened


@cache
def _compiled(rule: Rule, dtype: torch.dtype, words: tuple[bool | str, ...]) -> Any:
    """A compiled rule for each combination of what it is compiled anew for: torch gives up after 8 of one function."""
    given = _widened(rule) if dtype in _16_BITS else rule
    assert isinstance(given, FunctionType)
    same = FunctionType(given.__code__.replace(), given.__globals__, given.__name__, None, given.__closure__)
    same.__kwdefaults__ = given.__kwdefaults__
    return torch.compile(same, fullgraph=True, dynamic=True)


def _tensors(coefficients: Mapping[str, Coefficient | Norm], like: Tensor) -> dict[str, Any]:
    """Numbers as 0-d tensors on the CPU; what chooses between formulas stays what it is."""
    names = [n for n, c in coefficients.items() if isinstance(c, (int, float)) and not isinstance(c, bool)]
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    values = torch.tensor([coefficients[n] for n in names], dtype=dtype).unbind()
    return {**coefficients, **dict(zip(names, values, strict=True))}


def _vectors(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """The same memory as vectors, so that one compiled rule serves all shapes; None where the layouts differ.

    `data`, for torch would compile anew for each number of dimensions of what a vector is a view of.
    """
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return None
    if all(t.is_contiguous() for t in tensors):
        return [t.view(-1).data for t in tensors]
    if all(t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last) for t in tensors):
        return [t.permute(0, 2, 3, 1).view(-1).data for t in tensors]
    return None
