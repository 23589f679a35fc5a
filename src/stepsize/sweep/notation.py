"""How numbers of a sweep are written, in the terminal, the report and the figures alike: four significant digits."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from stepsize.sweep.comparison import Interval

NOTHING = "–"  # noqa: RUF001 (an en dash: there is no such number)


def number(value: float | None) -> str:
    """A value of the objective: 0.07120, 2.303, 1.234e-05, inf."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return f"{value:g}"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3e}"
    return f"{value:#.4g}".rstrip(".")


def rate(value: float | None) -> str:
    """A learning rate, that compares at a glance: 3.162e-04."""
    return NOTHING if value is None else f"{value:.3e}"


def interval(of: Interval) -> str:
    """A mean with its half-width to the same decimals: 0.07120 ± 0.00310."""
    mean = number(of.mean)
    if of.half_width is None:
        return mean
    if "e" in mean or not mean.replace(".", "").replace("-", "").isdigit() or not math.isfinite(of.half_width):
        return f"{mean} ± {number(of.half_width)}"
    decimals = len(mean.partition(".")[2])
    width = f"{of.half_width:.{decimals}f}"
    return f"{mean} ± {width if float(width) or not of.half_width else number(of.half_width)}"


def p_value(p: float) -> str:
    """A probability: p < 0.001, p = 0.013."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def duration(seconds: float | None) -> str:
    """A time: 3.1 s, 4 min 05 s, 2 h 03 min."""
    if seconds is None:
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Each parameter to its last word, "optimizer.lr" to "lr", where no other ends with the same."""
    every = list(names)
    last = [name.rpartition(".")[2] for name in every]
    return {name: word if last.count(word) == 1 else name for name, word in zip(every, last, strict=True)}


def parameter(value: Any, is_rate: bool = False) -> str:
    """The value of a parameter: a number to four digits, anything else as typed."""
    if isinstance(value, float):
        return rate(value) if is_rate and value > 0 else f"{value:.4g}"
    return str(value)


def parameters(params: Mapping[str, Any], rate_name: str | None = None) -> str:
    """All parameters of a trial: "lr 3.162e-04, dropout 0.1"."""
    short = short_names(params)
    return ", ".join(f"{short[name]} {parameter(value, name == rate_name)}" for name, value in params.items())


def unbroken(text: str) -> str:
    """A sentence whose lines do not break inside "p < 0.001" or "1.0 ± 0.1"."""
    return re.sub(" ([<=≥±]) ", "\u00a0\\1\u00a0", text)


def listed(words: Iterable[str]) -> str:
    """Words as in a sentence: "a", "a and b", "a, b and c"."""
    *most, last = list(words)
    return f"{', '.join(most)} and {last}" if most else last
