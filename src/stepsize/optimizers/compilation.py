"""A rule through torch.compile: few graphs for all shapes and all values, and never a reason to stop."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stepsize.optimizers.counted_normal import LANES, Key, elements, halves
from stepsize.optimizers.unguarded import Unguarded

# Elements that a rule is compiled with: the compiler's hint to how many threads, or blocks of a GPU, share a sum.
_EXAMPLE, _EXAMPLE_CPU = 1 << 22, 1 << 18

_16_BITS = (torch.bfloat16, torch.float16)
# Parameters times steps from which compiling, 8 to 11 s from an empty cache, is paid back on a CPU even at the 0.26 ns
# that Lion, which saves least, saves a parameter at every step (docs/benchmarks.md).
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
            between formulas, a bool or a word, is part of what is compiled. A `Key` gives way to each call's.
    """

    failed: ClassVar[set[Any]] = set()  # rules, in this process: what has failed once is not tried again

    def __init__(self, rule: Callable[..., Tensor | None], like: Tensor, coefficients: Mapping[str, Any]) -> None:
        words = {name: c for name, c in coefficients.items() if isinstance(c, (bool, str))}
        numbers = {n: c for n, c in coefficients.items() if isinstance(c, (int, float)) and n not in words}
        others = {n: c for n, c in coefficients.items() if n not in (*words, *numbers, "key")}
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._numbers = _on_their_way([torch.tensor([*numbers.values()], dtype=dtype, device="cpu")], like.device)
        self._key: Key | None = coefficients.get("key")
        self._others = [*others.values()]
        self._beside = (torch.get_num_threads(), *[(t.dtype, t.device, t.shape, t.stride()) for t in self._others])
        self._rule, self._device = rule, like.device
        draws = self._key is not None
        self._form = (rule, like.dtype, like.device, tuple(numbers), tuple(words.items()), tuple(others), draws)
        self._functions: dict[bool, Unguarded] = {}

    def __call__(self, tensors: Sequence[Tensor], number: int = 0, *, in_halves: bool = False) -> Tensor | None:
        """Call the rule.

        Args:
            tensors: p, g, *state as `vectors` of more than one element, as lengths of 1 are compiled anew; or the
                `halves` of each.
            number: of the first coordinate, for a rule that draws.
            in_halves: whether tensors are halves.

        Returns:
            What the rule returned.

        Raises:
            NotCompiledError: it cannot be compiled, and the tensors are as they were; the first time, with a warning.
                Or the tensors have different lengths.
        """
        sizes = {t.numel() for t in tensors}
        if self._rule in CompiledRule.failed or len(sizes) > 1:  # eagerly, the rule says which do not fit
            raise NotCompiledError
        # Vectors are dense and halves are strided alike, so that strides follow from sizes.
        form = (self._beside, *sizes, *[(t.dtype, t.device) for t in tensors])
        key = [] if self._key is None else _on_their_way(self._key.at(number), self._device)
        try:
            if in_halves not in self._functions:
                self._functions[in_halves] = self._begun(tensors, key, in_halves)
            return self._functions[in_halves](form, tensors, self._numbers, key, self._others)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            CompiledRule.failed.add(self._rule)
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"torch.compile failed, the optimizer runs eagerly: {reason}", stacklevel=2)
            raise NotCompiledError from error

    def _begun(self, tensors: Sequence[Tensor], key: Sequence[Tensor], in_halves: bool) -> Unguarded:
        function = _compiled(*self._form, in_halves=in_halves)
        if not function.begun:
            size = _EXAMPLE_CPU if self._device.type == "cpu" else _EXAMPLE
            examples = [t.new_zeros(size) for t in tensors]
            if in_halves:
                examples = [h for e in examples[::2] for h in halves(e)]
            function("example", examples, self._numbers, key, self._others)
            function.begun = True
        return function


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


def contiguous(tensors: Sequence[Tensor]) -> bool:
    """Whether all are torch's own and have their elements side by side, in the order of their indices."""
    return all(t.is_contiguous() and type(t) in (Tensor, nn.Parameter) for t in tensors)


def vectors(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """The same memory as vectors, so that one compiled rule serves all shapes; None where the layouts differ."""
    if contiguous(tensors):
        return [t.view(-1) for t in tensors]
    last = [t.permute(0, 2, 3, 1) for t in tensors if t.ndim == 4 and type(t) in (Tensor, nn.Parameter)]
    return vectors(last) if len(last) == len(tensors) and contiguous(last) else None


def _on_their_way(vectors: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    # One input takes less time than one for each number, but a GPU's kernel takes 0-d tensors of the CPU only.
    return vectors if device.type == "cpu" else elements(vectors)


def _arrived(numbers: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    return elements(numbers) if device.type == "cpu" else numbers


@cache
def _compiled(
    rule: Callable[..., Tensor | None],
    dtype: torch.dtype,
    device: torch.device,
    names: tuple[str, ...],
    words: tuple[tuple[str, bool | str], ...],
    names_of_tensors: tuple[str, ...],
    draws: bool,
    *,
    in_halves: bool,
) -> Unguarded:
    """A compiled rule for each combination of what it is compiled anew for.

    A function for each, as torch gives up after 8 of one.
    """
    given = widened(rule, dtype)

    def call(
        tensors: Sequence[Tensor], numbers: Sequence[Tensor], key: Sequence[Tensor], others: Sequence[Tensor]
    ) -> Tensor | None:
        coefficients: dict[str, Any] = dict(zip(names, _arrived(numbers, device), strict=True)) | dict(words)
        coefficients |= dict(zip(names_of_tensors, others, strict=True))
        if draws:
            coefficients["key"] = _arrived(key, device)
        if in_halves:
            return given(*zip(tensors[::2], tensors[1::2], strict=True), **coefficients)
        return given(*tensors, **coefficients)

    call.__code__ = call.__code__.replace(co_name=getattr(rule, "__name__", "rule"))
    return Unguarded(call, (LANES,), _options())


def _options() -> dict[str, Any]:
    from torch._inductor import config  # takes a while, and only those who compile need it

    options: dict[str, Any] = {"size_asserts": False}  # of inputs, whose sizes and strides Unguarded knows
    # A rule is one pass over memory, however long its formula: nothing in it is kept to be read again.
    options |= {"realize_reads_threshold": 1000, "realize_opcount_threshold": 1000}
    contract = "enable_floating_point_contract_flag"
    if hasattr(config.cpp, contract):  # a·b + c rounded once, as a GPU's compiler does it: fewer operations
        options[f"cpp.{contract}"] = "fast"
    return options
