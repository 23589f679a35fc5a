"""What is searched: Hydra's words for a sweep, read as Optuna's distributions."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from stepsize.errors import ConfigError, suggestion

Space = dict[str, BaseDistribution]

_DIGITS = 12  # significant ones of a number we compute: 10**-5 and 0.1 * 1e-4 are both written 1e-05
_LINEAR_FROM_0 = 1e-4  # of the upper end: where the log form of an interval from 0 begins


class Words(NamedTuple):
    """What was typed after `-m`.

    Args:
        space: name to distribution, in the order typed. A name is the key as typed, `+` or `++` and package included,
            so that `override(name, value)` is what the job gets; a choice is its text.
        fixed: overrides that are no sweep, unchanged, such as "model.dropout=0.1" or "~callbacks.x".
    """

    space: Space
    fixed: tuple[str, ...]


def read(arguments: Sequence[str], config_loader: ConfigLoader | None = None) -> Words:
    """Read overrides in Hydra's grammar.

    `interval(a,b)` is a range of floats and `int(interval(a,b))` of integers, both ends included; `tag(log,...)` makes
    it logarithmic; `range(start,stop,step)` stays discrete; `a,b`, `choice(...)` and `glob(...)` are choices. `shuffle`
    changes nothing, as a sampler draws in its own order and the same command has to be the same search. Of two
    overrides of one key the later counts.

    Args:
        arguments: the overrides; later ones win.
        config_loader: Hydra's, which lists the words of a group; needed for `glob` alone.

    Raises:
        ConfigError: for a range without a number in it, a log range that reaches 0, a tag other than log, a glob that
            matches nothing.
        OverrideParseException: Hydra's, for what is not in its grammar.
    """
    space: dict[str, tuple[str, BaseDistribution]] = {}  # by key without prefix
    fixed: list[tuple[str, str]] = []
    for override in OverridesParser.create(config_loader=config_loader).parse_overrides(list(arguments)):
        name = override.get_key_element()
        key = name.lstrip("+~")
        space.pop(key, None)
        if override.is_sweep_override():
            space[key] = (name, _distribution(name, override))
            fixed = [(other, text) for other, text in fixed if other != name]
        else:
            fixed.append((name, str(override.input_line)))  # of two of these Hydra takes the later, or both of +group
    return Words(dict(space.values()), tuple(text for _, text in fixed))


def command_line(overrides: Sequence[str], params: Mapping[str, Any]) -> list[str]:
    """The words of a trial: what is fixed, unless a parameter sets it, and then the parameters.

    Args:
        overrides: of every trial.
        params: name to sampled value.
    """
    names = {name.lstrip("+") for name in params}
    fixed = [text for text in overrides if text.lstrip("+~").split("=")[0] not in names]
    return [*fixed, *(override(name, value) for name, value in params.items())]


def override(name: str, value: float | str) -> str:
    """The override that sets a sampled value, such as "optimizer.lr=1e-05".

    Args:
        name: of the parameter, as in the space.
        value: as sampled: a number, written so that it is read back exactly, or the text of a choice.
    """
    match value:
        case float():
            return f"{name}={float(value)!r}"  # NumPy's floats are floats and write themselves differently
        case _:
            return f"{name}={value}"


def decades(lr: float, low: float | None, high: float | None, decades: float = 2) -> FloatDistribution:
    """The logarithmic range of learning rates around an optimizer's own.

    Args:
        lr: the optimizer's default.
        low: of the range, > 0; None for lr / 10^decades.
        high: of the range, above low; None for lr * 10^decades.
        decades: to each side of lr, > 0.

    Raises:
        ConfigError: for an end that is not a number above 0, for low not below high, for a missing end where lr is not
            above 0.
    """
    for name, end in (("sweep.low", low), ("sweep.high", high)):
        if end is None and not 0 < lr < math.inf:
            raise ConfigError(f"{name}: must be given, as it cannot be derived from a learning rate of {lr:g}")
        if end is not None and not 0 < end < math.inf:
            raise ConfigError(f"{name}: must be a finite number above 0, got {end:g}")
    bottom = rounded(lr / 10**decades) if low is None else low
    top = rounded(lr * 10**decades) if high is None else high
    if bottom >= top and low is None:
        raise ConfigError(f"sweep.high: must be above sweep.low={bottom:g}, got {top:g}")
    if bottom >= top:
        raise ConfigError(f"sweep.low: must be below sweep.high={top:g}, got {bottom:g}")
    return FloatDistribution(bottom, top, log=True)


def rounded(number: float) -> float:
    """The number to 12 significant digits, so that it reads well."""
    return float(f"{number:.{_DIGITS}g}")


def linear_rates(space: Space) -> list[str]:
    """A warning for each learning rate in the space that is not searched logarithmically."""
    return [
        f"{name} is searched on a linear scale, where most trials fall near the upper end; log form: "
        f"{name}='tag(log,interval({low!r},{d.high!r}))'"
        for name, d in space.items()
        if _is_rate(name) and isinstance(d, FloatDistribution) and not d.log and d.step is None and d.high > 0
        for low in (d.low if d.low > 0 else rounded(d.high * _LINEAR_FROM_0),)
    ]


def to_json(space: Space) -> dict[str, str]:
    """Each distribution as Optuna's JSON, by name."""
    return {name: distribution_to_json(distribution) for name, distribution in space.items()}


def from_json(texts: Mapping[str, str]) -> Space:
    """The space that `to_json` wrote."""
    return {name: json_to_distribution(text) for name, text in texts.items()}


def changes(before: Space, now: Space) -> list[str]:
    """What differs, a line for each parameter: "optimizer.lr: was log 1e-05..0.1, is log 1e-06..0.1"."""
    return [
        f"{name}: was {_description(before.get(name))}, is {_description(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _distribution(name: str, override: Override) -> BaseDistribution:
    match value := override.value():
        case IntervalSweep():
            return _interval(name, value)
        case RangeSweep():
            return _range(name, value)
        case ChoiceSweep() if value.tags:
            raise ConfigError(f"{name}: choices take no tag, got {', '.join(sorted(value.tags))}")
        case ChoiceSweep():
            value.shuffle = False
    texts = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not texts:
        options = override.config_loader.get_group_options(override.key_or_group) if override.config_loader else []
        pattern = ",".join(value.include) if isinstance(value, Glob) else ""
        raise ConfigError(f"{override.input_line}: matches nothing; {suggestion(pattern, options)}")
    return CategoricalDistribution(texts)


def _interval(name: str, interval: IntervalSweep) -> BaseDistribution:
    low, high = interval.start, interval.end
    assert low is not None
    assert high is not None
    log = _is_log(name, interval)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{name}: an interval goes from a number up to a larger one, got {low:g} to {high:g}")
    if log and low <= 0:
        raise ConfigError(f"{name}: a log interval begins above 0, got {low:g}")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _range(name: str, numbers: RangeSweep) -> BaseDistribution:
    assert numbers.start is not None
    assert numbers.stop is not None
    step = numbers.step
    if not all(math.isfinite(number) for number in (numbers.start, numbers.stop, step)) or step == 0:
        raise ConfigError(f"{name}: a range takes finite numbers and a step other than 0")
    start, stop, by = (Decimal(repr(number)) for number in (numbers.start, numbers.stop, step))
    num = math.ceil((stop - start) / by)
    if num < 1:
        raise ConfigError(f"{name}: the range from {start} to {stop} by {by} is empty")
    low, high = sorted((start, start + (num - 1) * by))  # in decimals, as 0.1 * 3 is not 0.3 in binary
    is_whole = all(isinstance(number, int) for number in (numbers.start, numbers.stop, step))
    if not _is_log(name, numbers):
        if is_whole:
            return IntDistribution(int(low), int(high), step=abs(int(step)))
        return FloatDistribution(float(low), float(high), step=float(abs(by)))
    if not is_whole or abs(by) != 1 or low <= 0:
        raise ConfigError(f"{name}: a log range takes integers above 0 without a step; or tag(log,interval(low,high))")
    return IntDistribution(int(low), int(high), log=True)


def _is_log(name: str, sweep: IntervalSweep | RangeSweep) -> bool:
    for tag in sorted(sweep.tags - {"log"}):
        raise ConfigError(f"{name}: there is no tag {tag}; {suggestion(tag, ['log'])}")
    return "log" in sweep.tags


def _is_rate(name: str) -> bool:
    key = name.partition("@")[0].rpartition(".")[-1].lstrip("+")
    return key in ("lr", "learning_rate") or key.endswith("_lr")


def _description(distribution: BaseDistribution | None) -> str:
    match distribution:
        case FloatDistribution() | IntDistribution():
            kind = "integers " if isinstance(distribution, IntDistribution) else ""
            scale = "log " if distribution.log else ""
            step = f" by {distribution.step:g}" if distribution.step not in (None, 1) else ""
            return f"{scale}{kind}{distribution.low:g}..{distribution.high:g}{step}"
        case CategoricalDistribution():
            return ",".join(str(choice) for choice in distribution.choices)
    return "not searched"
