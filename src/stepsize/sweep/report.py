"""report.html: what a sweep found, in one file that opens offline, with the same figures as PNG beside it."""

import io
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from matplotlib.figure import Figure

from stepsize.data.files import whole_file
from stepsize.sweep import plots
from stepsize.sweep.axes_style import INK, style
from stepsize.sweep.comparison import ALPHA
from stepsize.sweep.importance import FEWEST
from stepsize.sweep.notation import NOTHING, duration, listed, number, parameter, short_names, unbroken
from stepsize.sweep.results import FINISHED, ArmResult, State, SweepResult, TrialResult
from stepsize.sweep.statistics import TOLERANCE, untrained
from stepsize.sweep.table import conclusion, edge, progress, ranked, rows

DPI = 150  # of the PNGs


class Drawn(NamedTuple):
    """A figure as the page shows it: `svg` is markup of ours, `caption` says how to read it."""

    name: str
    svg: str
    caption: str


class Command(NamedTuple):
    """A command line, and what it does."""

    does: str
    line: str


def write(sweep: SweepResult, folder: Path) -> Path:
    """Write report.html and plots/*.png into a sweep's folder, each file whole or not at all.

    It can be written at any time: of a sweep that runs, of one without a finished trial, and again.

    Args:
        sweep: what was found so far.
        folder: of the sweep; the links to its trials are relative to it.

    Returns:
        The path of report.html.
    """
    from jinja2 import Environment, StrictUndefined

    with style():
        figures = plots.figures(sweep)
        for name in plots.NAMES:
            path = folder / "plots" / f"{name}.png"
            if name in figures:
                with whole_file(path) as file:
                    figures[name].savefig(file, format="png", dpi=DPI)
                figures[name].set_layout_engine("none")  # it is laid out: the SVG need not do it again
            else:
                path.unlink(missing_ok=True)  # of an earlier report
        drawn = [Drawn(name, _svg(figure, name), _caption(sweep, name)) for name, figure in figures.items()]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("stepsize.sweep").joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(source).render(_page(sweep, folder, drawn))
    path = folder / "report.html"
    with whole_file(path) as file:
        file.write(page.encode(errors="backslashreplace"))
    return path


def commands(sweep: SweepResult, folder: Path) -> list[Command]:
    """What to do next: reproduce the best, continue, look at the runs, browse the study."""
    several = len(sweep.arms) > 1
    found = [
        Command(f"Reproduce the best of {arm.name}" if several else "Reproduce the best trial", arm.command)
        for arm in ranked(sweep)
        if arm.command
    ]
    if sweep.command:
        found.append(Command("Continue, or extend with a larger sweep.n_trials", sweep.command))
    short = os.path.relpath(folder)
    shown = shlex.quote(str(folder) if short.startswith("..") else short)
    found.append(Command("Look at every run", f"tensorboard --logdir {shown}"))
    database = folder / "study.db"
    if database.exists():
        found.append(Command("Browse the study", f"optuna-dashboard {shlex.quote(f'sqlite:///{database.absolute()}')}"))
    return found


def notes(sweep: SweepResult) -> list[str]:
    """What to know before trusting the numbers, a sentence each."""
    return [
        f"{arm.name}: {text}" if arm.name else text[0].upper() + text[1:]
        for arm in sweep.arms
        for text in _notes(sweep, arm)
    ]


def _notes(sweep: SweepResult, arm: ArmResult) -> Iterator[str]:
    """Those of one arm."""
    done = sum(t.state in FINISHED for t in arm.trials)
    wanted = sweep.n_trials + arm.added
    if done < wanted:
        running = sum(t.state == State.running for t in arm.trials)
        yield f"not finished: {done} of {wanted} trials{f', {running} running' if running else ''}."
    if arm.widened:
        decades = "a decade" if arm.widened == 1 else f"{arm.widened} decades"
        yield f"the range was widened by {decades}, since the best learning rate lay at its edge."
    if (end := edge(sweep, arm)) in ("low", "high"):
        yield f"the best learning rate lies at the {end} end of the range; one beyond it may be better."
    if untrained(arm) is None and any(t.state == State.diverged for t in arm.trials):
        yield "the objective before training is not known; a diverged trial counts as the worst finite value instead."
    reasons: dict[str, list[str]] = {}
    for trial in arm.trials:
        if trial.state == State.failed:
            reasons.setdefault(trial.reason or "no reason is known", []).append(str(trial.number))
        if trial.retry_of is not None:
            yield f"trial {trial.number} repeats trial {trial.retry_of}, which was killed."
    for reason, numbers in reasons.items():
        yield f"{'trial' if len(numbers) == 1 else 'trials'} {listed(numbers)} failed: {reason}"


def _page(sweep: SweepResult, folder: Path, drawn: list[Drawn]) -> Mapping[str, Any]:
    """What the template shows."""
    trials = [t for arm in sweep.arms for t in arm.trials]
    done = sum(t.state in FINISHED for t in trials)
    names = list(dict.fromkeys(name for t in trials for name in t.params))
    return {
        "sweep": sweep,
        "headline": unbroken(conclusion(sweep)),
        "progress": progress(sweep, *sweep.arms),
        "time": duration(sum(t.seconds or 0.0 for t in trials)) if done else NOTHING,
        "notes": notes(sweep),
        "rows": rows(sweep),
        "has_rate": any(arm.rate for arm in sweep.arms),
        "has_seeds": any(arm.confirmed for arm in sweep.arms),
        "figures": drawn,
        "commands": commands(sweep, folder),
        "parameters": [short_names(names)[name] for name in names],
        "trials": [
            _cells(arm, t, names) for arm in sweep.arms for t in sorted(arm.trials, key=lambda t: _rank(sweep, t))
        ],
        "best": {(arm.name, best.number) for arm in sweep.arms if (best := sweep.best(arm))},
        "tolerance": f"{100 * (1 - TOLERANCE):.0f} %",
        "alpha": f"{ALPHA:.2g}",
    }


def _rank(sweep: SweepResult, trial: TrialResult) -> tuple[bool, bool, float, int]:
    """Complete ones first and the best of them before the others; what is not finished comes last."""
    value = float("inf") if trial.value is None else sweep.sign * trial.value
    return trial.state not in FINISHED, trial.state != State.complete, value, trial.number


def _cells(arm: ArmResult, trial: TrialResult, names: list[str]) -> Mapping[str, Any]:
    """A trial as a row."""
    return {
        "arm": arm.name,
        "number": trial.number,
        "state": trial.state.value,
        "value": number(trial.value),
        "params": [parameter(trial.params[n], n == arm.rate) if n in trial.params else NOTHING for n in names],
        "steps": str(max(trial.curve)) if trial.curve else NOTHING,
        "time": duration(trial.seconds),
        "reason": trial.reason,
        "href": quote(trial.folder) + "/" if trial.folder else "",
    }


def _caption(sweep: SweepResult, name: str) -> str:
    """How to read a figure."""
    match name:
        case "rate":
            shade = ", the shade the basin" if len(sweep.arms) == 1 else ""
            return (
                f"Each dot is a trial, a star the best, a cross one that diverged{shade}. A wide flat bottom "
                "forgives a learning rate that is a little off; a wall close to the star does not."
                if sweep.mode == "min"
                else f"Each dot is a trial, a star the best, a cross one that diverged{shade}. A wide flat top "
                "forgives a learning rate that is a little off; a drop close to the star does not."
            )
        case "seeds":
            return (
                "Dots are single seeds (a cross one that diverged), the diamond is their mean with its 95 % interval. "
                "The test is paired over seeds, so intervals that overlap may still differ: the sentence at the top "
                "says which do."
            )
        case "budget" if all(arm.exchangeable for arm in sweep.arms):
            return (
                "The best to expect had only so many of these trials been run, with a 95 % bootstrap band (too narrow "
                "at the right end). Where the curve is flat, more trials buy little."
            )
        case "budget":
            return (
                f"The best so far as the trials came. The order of a {sweep.sampler} search is no chance, so this "
                "shows how this sweep went and not what another budget would bring."
            )
        case "curves":
            return "The objective at each validation. A curve that still improves at its end asks for a longer run."
    return (
        "How much worse a random forest of the trials predicts once the parameter is shuffled, as a share of all. It "
        f"speaks of the searched ranges only, and is rough with few trials (it needs {FEWEST})."
    )


def _svg(figure: Figure, name: str) -> str:
    """A figure as markup inside a page: ids that no other figure has, colours and fonts of the page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 role="img" aria-labelledby="{name}-caption"', svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace(INK, "currentColor").replace("#ffffff", "var(--paper)")
