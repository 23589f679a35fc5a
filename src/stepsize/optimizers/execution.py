"""How a rule is executed: eagerly or compiled, small parameters packed into one vector."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stepsize.optimizers.compilation import CompiledRule, NotCompiledError, contiguous, vectors, widened
from stepsize.optimizers.counted_normal import Key, blocks

# In place: rule(p, g, *state, **coefficients). What it returns, a 0-d tensor or nothing, is collected.
Rule = Callable[..., Tensor | None]
Coefficient = float | bool | str | Tensor | Key
Norm = Callable[[Tensor], Tensor]

# Below, in elements, a kernel's launch takes longer than its work, and copying in and out of one vector is cheaper.
SMALL = 4096
FEWEST = 4
_KEPT = 16  # workspaces; more means that other parameters have a gradient at each step


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
            has a keyword of this name, norm(x) is the 2-norm over the parameter. Where it has a keyword `key`, that is
            `Key.at` the number of p's first coordinate; the coefficient of this name hands these out to large
            parameters, each in the order in which it lies in memory, then to small ones. Compiled, such a rule is given
            `blocks` in halves, too.
        work: tensors of one device and one dtype, those of a tuple alike in shape. g is not changed.
        coefficients: numbers become 0-d tensors when compiled, so that another value compiles nothing anew.
        compiled: through torch.compile; where that fails, eagerly, with one warning.
        workspaces: what is kept between steps for packing: several small parameters are one vector to the rule, and
            norm(x) then has each one's at each of its elements; begins empty.
    """
    takes_norms = "norm" in (rule.__kwdefaults__ or {})
    small = [tensors for tensors in work if tensors[0].numel() <= SMALL]
    large = [tensors for tensors in work if tensors[0].numel() > SMALL]
    if len(small) < FEWEST or any(type(p) not in (Tensor, nn.Parameter) for p, *_ in small):
        return _run(rule, [*large, *small] if "key" in coefficients else work, coefficients, compiled)
    first = small[0][0]
    name = (rule, first.device, first.dtype, *(id(p) for p, *_ in small))
    if name not in workspaces:
        if len(workspaces) >= _KEPT:
            workspaces.clear()
        workspaces[name] = Workspace(small)
    with_vector = workspaces[name]
    vector = with_vector.gather(small)
    if takes_norms:
        packed = _run(rule, [vector], {**coefficients, "norm": with_vector.norm}, False)
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


class _Call(NamedTuple):
    """A call of a rule.

    Args:
        whole: what it is called with eagerly.
        split: the same memory for a compiled call, nothing where there is none.
        number: of the first coordinate, for a rule that draws.
        in_halves: whether split has the halves of each.
    """

    whole: Sequence[Tensor]
    split: Sequence[Tensor] = ()
    number: int = 0
    in_halves: bool = False


def _run(rule: Rule, work: Sequence[Sequence[Tensor]], coefficients: Mapping[str, Any], compiled: bool) -> list[Tensor]:
    if not work:
        return []
    first = work[0][0]
    fast = CompiledRule(rule, first, coefficients) if compiled else None
    eager = widened(rule, first.dtype)
    calls = [call for tensors in work for call in _calls(rule, tensors, coefficients, compiled)]
    found = [_call(call, fast, eager, coefficients) for call in calls]
    # A compiled rule that meets a size is given the memory as `data`, which hides the change from autograd.
    torch.autograd.graph.increment_version([p for p, *_ in work])
    return [returned for returned in found if returned is not None]


def _call(call: _Call, fast: CompiledRule | None, eager: Rule, coefficients: Mapping[str, Any]) -> Tensor | None:
    if fast is not None and call.split and call.whole[0].numel() > 1:
        with suppress(NotCompiledError):
            return fast(call.split, call.number, in_halves=call.in_halves)
    key = {"key": coefficients["key"].at(call.number)} if "key" in coefficients else {}
    return eager(*call.whole, **{**coefficients, **key})


def _calls(rule: Rule, tensors: Sequence[Tensor], coefficients: Mapping[str, Any], compiled: bool) -> Iterable[_Call]:
    if "key" not in coefficients:
        return (_Call(tensors, vectors(tensors) or () if compiled else ()),)
    first = coefficients["key"].numbering.take(tensors[0].numel())
    takes_halves = widened(rule, tensors[0].dtype) is rule
    if compiled and takes_halves and contiguous(tensors):
        return [_Call(*each) for each in blocks(tensors, first)]
    flat = vectors(tensors)
    return (_Call(flat or tensors, flat or () if compiled else (), first),)
