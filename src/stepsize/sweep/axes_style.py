"""How every figure looks: colours that the colour-blind can tell apart, sizes that read at 1x, plain numbers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from stepsize.sweep.statistics import Floats

# Masataka Okabe, Kei Ito, "Color Universal Design", 2008, https://jfly.uni-koeln.de/color/, without its yellow, which
# is too faint on white, and with the ink in the place of its black
INK = "#1b1f24"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK, "#8c6d31")
LINES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")  # of the arms that come after the last colour
DECADE = 10.0

STYLE: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#808080",
    "grid.alpha": 0.22,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 6.0,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "stepsize",  # the same sweep gives the same file
}


@contextmanager
def style() -> Iterator[None]:
    """Draw, and save, inside this."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own settings are; it leaves the backend alone
        matplotlib.rcParams.update(STYLE)
        yield


def new(title: str, x: str, y: str, height: float = 4.2) -> tuple[Figure, Axes]:
    """An empty figure, its texts as they are given."""
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def colour(i: int) -> str:
    """Of the i-th arm."""
    return PALETTE[i % len(PALETTE)]


def line(i: int) -> Literal["-", "--", "-.", ":"]:
    """The i-th arm's line, which tells it from the arm that has its colour already."""
    return LINES[i // len(PALETTE) % len(LINES)]


def label(text: str, longest: int = 24) -> str:
    """Text that may stand beside a plot: not too long, and not left out of the legend for its underscore."""
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return f" {cut}" if cut.startswith("_") else cut


def is_log(values: Iterable[float]) -> bool:
    """Whether values are better seen in logarithms: positive, and more than a decade apart."""
    found = list(values)
    return bool(found) and min(found) > 0 and max(found) > DECADE * min(found)


def log_rates(axes: Axes, low: float, high: float) -> None:
    """The x axis in learning rates."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))
    subs = (1.0,) if high / low > 30 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axes.xaxis.set_minor_locator(LogLocator(subs="auto", numticks=12))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def whole_numbers(axes: Axes) -> None:
    """The x axis in counts."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def limit(axes: Axes, values: Floats, log: bool) -> tuple[float, float]:
    """Set the y axis around values, with a margin above and below; returns its ends."""
    low, high = float(values.min()), float(values.max())
    if log:
        margin = (high / low) ** 0.07
        ends = (low / margin, high * margin)
        axes.set_yscale("log")
        span = high / low
        subs = (1.0, 2.0, 5.0) if span < 1e3 else (1.0,)
        ticks = LogLocator(subs=subs, numticks=12).tick_values(*ends)
        axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if ends[0] <= t <= ends[1]]))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        margin = 0.07 * (high - low) or 0.05 * abs(high) or 0.05
        ends = (low - margin, high + margin)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.6g}"))
    axes.set_ylim(*ends)
    return ends


def _short(x: float) -> str:
    """0.001 as it is typed, 1e-3."""
    digits, _, exponent = f"{x:.0e}".partition("e")
    return f"{digits}e{int(exponent)}"
