"""A rule through torch.compile: few graphs for all shapes and all values, and never a reason to stop."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stepsize.optimizers.counted_normal import BLOCK, Key, Pair, halves

Tensors = Sequence[Tensor | Pair]

# Tuples of tensors in one compiled call, whose overhead (guards, unpacking) is that of the work on 1e5 parameters.
# Twice as many save no more, and take twice as long to compile.
BATCH = 4
# Elements that a rule is compiled with: the compiler's hint to how many threads, or blocks of a GPU, share a sum.
_EXAMPLE, _EXAMPLE_CPU = 1 << 22, 1 << 18

_16_BITS = (torch.bfloat16, torch.float16)
# Parameters times steps from which compiling, 10 s from an empty cache, is paid back on a CPU at the 0.25 to 1.5 ns
# that a compiled rule saves a parameter at every step (docs/benchmarks.md).
WORTH_COMPILING = 3e10

# Below, in elements, a compiled step took longer than an eager one (the rows `small` and `matrices_31` there).
WORTH_LOOKING = 1_000_000


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
    return size >= WORTH_LOOKING and horizon is not None and horizon * size * saving > WORTH_COMPILING


class NotCompiledError(Exception):
    """A rule cannot be compiled, here and now."""


class CompiledRule:
    """A rule, compiled, with coefficients.

    Args:
        rule: as in `execution.execute`, without `norm`.
        like: a tensor on the device of all, and of their dtype.
        coefficients: numbers become tensors on the CPU, so that another value compiles nothing anew; what chooses
            between formulas, a bool or a word, is part of what is compiled. A `key` is given with each call's number.
        batch_size: tuples of tensors in one call.
    """

    failed: ClassVar[set[Any]] = set()  # rules, in this process: what has failed once is not tried again

    def __init__(
        self, rule: Callable[..., Tensor | None], like: Tensor, coefficients: Mapping[str, Any], batch_size: int
    ) -> None:
        words = {name: c for name, c in coefficients.items() if isinstance(c, (bool, str))}
        numbers = {n: c for n, c in coefficients.items() if isinstance(c, (int, float)) and n not in words}
        self._rule, self._batch_size = rule, batch_size
        self._form = (rule, like.dtype, like.device, tuple(numbers), tuple(words.items()), batch_size)
        self._key: Key | None = coefficients.get("key")
        self._others = {n: c for n, c in coefficients.items() if n not in (*words, *numbers, "key")}
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._numbers = _on_their_way(torch.tensor([*numbers.values()], dtype=dtype, device="cpu"), like.device)
        self._device = like.device

    def __call__(self, batch: Sequence[Tensors], first: Sequence[int]) -> list[Tensor | None]:
        """Call the rule for each of a few tuples of tensors, all of them vectors, or all of them in halves.

        Args:
            batch: up to `batch_size`, of more than one element, as lengths of 1 are compiled anew.
            first: the number of each one's first coordinate, for a rule that has a key.

        Returns:
            What the rule returned for each.

        Raises:
            NotCompiledError: it cannot be compiled, and the batch is as it was; the first time, with a warning.
        """
        if self._rule in CompiledRule.failed:
            raise NotCompiledError
        compiled, padding = _compiled(*self._form, in_halves=isinstance(batch[0][0], tuple))
        try:
            if not padding:
                # Lengths that are equal as a rule is compiled are taken for one (duck shaping), so these differ.
                length = (_EXAMPLE_CPU if self._device.type == "cpu" else _EXAMPLE) // self._batch_size
                self._call(compiled, [_zeros(batch[0], length + i * BLOCK) for i in range(self._batch_size)], [])
                padding += [_zeros(batch[0], 2 * BLOCK) for _ in range(self._batch_size)]
            found = self._call(compiled, [*batch, *padding[len(batch) :]], first)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            CompiledRule.failed.add(self._rule)
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"torch.compile failed, the optimizer runs eagerly: {reason}", stacklevel=2)
            raise NotCompiledError from error
        return found[: len(batch)]

    def _call(self, compiled: Any, batch: Sequence[Tensors], first: Sequence[int]) -> list[Tensor | None]:
        first = [*first, *[0] * (len(batch) - len(first))]
        key = None if self._key is None else _on_their_way(self._key.at(*first), self._device)
        returned: list[Tensor | None] = compiled(batch, self._numbers, key, self._others)
        return returned


def _zeros(like: Tensors, size: int) -> Tensors:
    """Vectors, or halves of them, to compile with and to fill a batch."""
    return [t.new_zeros(size) if isinstance(t, Tensor) else halves(t[0].new_zeros(size)) for t in like]


def widened(rule: Callable[..., Tensor | None], dtype: torch.dtype) -> Callable[..., Tensor | None]:
    """The rule for a parameter of some dtype and its gradient: in float32 where that has 16 bits, rounded once."""
    if dtype not in _16_BITS:
        return rule

    def wide(p: Tensor, g: Tensor, *state: Tensor, **coefficients: Any) -> Tensor | None:
        x = p.float()
        found = rule(x, g.float(), *state, **coefficients)
        p.copy_(x)
        return found

    return wide


def vectors(tensors: Sequence[Tensor]) -> list[Tensor] | None:
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


Numbers = Tensor | tuple[Tensor, ...]


def _on_their_way(numbers: Tensor, device: torch.device) -> Numbers:
    # One input takes less time than one for each number, but a GPU's kernel takes 0-d tensors of the CPU only.
    return numbers if device.type == "cpu" else numbers.unbind()


def _each(numbers: Numbers) -> tuple[Tensor, ...]:
    return numbers.unbind() if isinstance(numbers, Tensor) else numbers


@cache
def _compiled(
    rule: Callable[..., Tensor | None],
    dtype: torch.dtype,
    device: torch.device,
    numbers: tuple[str, ...],
    words: tuple[tuple[str, bool | str], ...],
    batch_size: int,
    *,
    in_halves: bool,
) -> tuple[Any, list[Tensors]]:
    """A compiled rule for each combination of what it is compiled anew for, and a place for what fills its batches.

    A function for each, as torch gives up after 8 of one.
    """
    given = widened(rule, dtype)

    def call(
        batch: Sequence[Tensors], values: Numbers, key: Numbers | None, others: Mapping[str, Any]
    ) -> list[Tensor | None]:
        coefficients = dict(zip(numbers, _each(values), strict=True)) | dict(words) | dict(others)
        if key is None:
            return [given(*tensors, **coefficients) for tensors in batch]
        first, second, product, *counts = _each(key)
        keys = [(first, second, product, count) for count in counts]
        return [given(*tensors, **coefficients, key=of) for tensors, of in zip(batch, keys, strict=True)]

    call.__code__ = call.__code__.replace(co_name=getattr(rule, "__name__", "rule"))
    return torch.compile(call, fullgraph=True, dynamic=True, options=_options()), []


def _options() -> dict[str, Any]:
    # a·b + c rounded once, as a GPU's compiler does it: fewer operations where arithmetic is the bound.
    known = "enable_floating_point_contract_flag"
    from torch._inductor import config  # takes a while, and only those who compile need it

    return {f"cpp.{known}": "fast"} if hasattr(config.cpp, known) else {}
