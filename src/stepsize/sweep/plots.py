"""The figures of a sweep."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stepsize.sweep.axes_style import colour, is_log, label, limit, line, log_rates, new, style, whole_numbers
from stepsize.sweep.comparison import standings
from stepsize.sweep.importance import importance
from stepsize.sweep.notation import number, parameters
from stepsize.sweep.results import ArmResult, State, SweepResult
from stepsize.sweep.statistics import Basin, basin, best_so_far, counted, expected_best, rate_curve, rate_of, untrained

NAMES = ("rate", "seeds", "budget", "curves", "importance")  # of the figures, as the report shows them
MOST_CURVES = 5  # of a single arm


def figures(sweep: SweepResult) -> dict[str, Figure]:
    """Those that have something to show, by name.

    Draw and save them inside `axes_style.style`.
    """
    with style():
        drawn = (rate(sweep), seeds(sweep), budget(sweep), curves(sweep), importances(sweep))
    return {name: figure for name, figure in zip(NAMES, drawn, strict=True) if figure is not None}


def rate(sweep: SweepResult) -> Figure | None:
    """The objective of every trial over its learning rate."""
    arms = {i: arm for i, arm in enumerate(sweep.arms) if any(rate_of(arm, t) for t in arm.trials)}
    values = [v for arm in arms.values() for t, v in counted(sweep, arm) if t.state != State.diverged]
    if not values:
        return None
    names = {arm.rate or "" for arm in arms.values()}
    better = "lower" if sweep.mode == "min" else "higher"
    title = f"{sweep.metric} over learning rate ({better} is better)"
    figure, axes = new(title, label(names.pop(), 60) if len(names) == 1 else "learning rate", sweep.metric, 4.8)
    start = next((v for arm in arms.values() if (v := untrained(arm)) is not None), None)  # arms differ little in it
    is_near = start is not None and _is_near(sweep, values, start)
    shown = np.array([*values, start] if is_near else values, dtype=float)
    ends = limit(axes, shown, sweep.mode == "min" and is_log(shown))
    if start is not None and is_near:
        axes.axhline(start, color="gray", linestyle=":", zorder=1)
    rates = [r for arm in arms.values() for t in arm.trials if (r := rate_of(arm, t))]
    rates += [end for arm in arms.values() for end in (arm.low, arm.high) if end and end > 0]
    margin = (max(rates) / min(rates)) ** 0.03 if max(rates) > min(rates) else 2.0
    log_rates(axes, min(rates) / margin, max(rates) * margin)
    for i, arm in arms.items():
        _rate_of_arm(axes, sweep, arm, i, ends[1] if sweep.mode == "min" else ends[0])
    flat = basin(sweep, sweep.arms[0]) if len(sweep.arms) == 1 else None
    if flat is not None:
        axes.axvspan(flat.low, flat.high, color=colour(0), alpha=0.09, linewidth=0)
    marks = _rate_marks(sweep, arms, flat)
    if start is not None:
        where = "" if is_near else "\n(off the axis)"
        shape = Line2D(
            [], [], color="gray", linestyle=":" if is_near else "", label=f"untrained {number(start)}{where}"
        )
        marks.append(shape)
    figure.legend(handles=marks, loc="outside right upper")
    return figure


def _rate_of_arm(axes: Axes, sweep: SweepResult, arm: ArmResult, i: int, worst_end: float) -> None:
    """One arm's trials: dots, hollow where pruned, crosses at the worst end where diverged, a star for the best."""
    trials = [(r, t, v) for t, v in counted(sweep, arm) if (r := rate_of(arm, t))]
    ended = [r for r, t, _ in trials if t.state != State.diverged]
    curve = rate_curve(sweep, arm)
    if curve is not None and {name for _, t, _ in trials for name in t.params} == {arm.rate}:
        x = 10**curve.x
        drawn = (x >= min(ended) * 0.999) & (x <= max(ended) * 1.001)
        axes.plot(x[drawn], sweep.sign * curve.cost[drawn], line(i), color=colour(i), alpha=0.55, linewidth=1.2)
    for state, face in ((State.complete, colour(i)), (State.pruned, "none")):
        points = [(r, v) for r, t, v in trials if t.state == state]
        if points:
            axes.plot(*np.array(points).T, "o", color=colour(i), markerfacecolor=face, clip_on=False)
    lost = [r for t in arm.trials if t.state == State.diverged and (r := rate_of(arm, t))]
    axes.plot(lost, [worst_end] * len(lost), "x", color=colour(i), markersize=8, markeredgewidth=2, clip_on=False)
    best = sweep.best(arm)
    at = [(r, v) for r, t, v in trials if best is not None and t.number == best.number]
    if at:
        axes.plot(*at[0], "*", color=colour(i), markersize=17, markeredgecolor="white", zorder=5, clip_on=False)


def _rate_marks(sweep: SweepResult, arms: Mapping[int, ArmResult], flat: Basin | None) -> list[Line2D]:
    """What the marks mean that are there."""
    states = {t.state for arm in arms.values() for t in arm.trials if rate_of(arm, t)}
    marks, ink = [], colour(0)
    if len(sweep.arms) > 1:
        ink = "gray"
        for i, arm in arms.items():
            marks.append(Line2D([], [], color=colour(i), linestyle=line(i), marker="o", label=label(arm.name)))
    if State.complete in states:
        marks.append(Line2D([], [], color=ink, linestyle="", marker="*", markersize=12, label="best"))
    if State.pruned in states:
        marks.append(Line2D([], [], color=ink, linestyle="", marker="o", markerfacecolor="none", label="pruned"))
    if State.diverged in states:
        marks.append(Line2D([], [], color=ink, linestyle="", marker="x", markeredgewidth=2, label="diverged"))
    if flat is not None:
        width = f"basin, {'≥ ' if flat.is_open else ''}{flat.decades:.2f} decades"
        marks.append(Line2D([], [], color=ink, alpha=0.2, linewidth=8, label=width))
    return marks


def budget(sweep: SweepResult) -> Figure | None:
    """What a budget of trials buys: expected, where trials are exchangeable, else as it went."""
    arms = {i: arm for i, arm in enumerate(sweep.arms) if counted(sweep, arm)}
    if all(sweep.best(arm) is None for arm in arms.values()):
        return None
    expected = all(arm.exchangeable for arm in arms.values())
    title = (
        f"Expected best {sweep.metric} of a budget" if expected else f"Best {sweep.metric} so far, in order of trials"
    )
    figure, axes = new(title, "trials", f"best {sweep.metric}")
    seen = []
    for i, arm in arms.items():
        values = np.array([v for _, v in counted(sweep, arm)])
        x = np.arange(1, len(values) + 1)
        if expected:
            found = expected_best(values, sweep.sign)
            y = found.mean
            axes.fill_between(x, found.low, found.high, color=colour(i), alpha=0.15, linewidth=0)
            seen += [found.low, found.high]
        else:
            y = best_so_far(values, sweep.sign)
        seen.append(y)
        marker = "o" if len(x) <= 40 else ""
        steps = "default" if expected else "steps-post"
        axes.plot(
            x,
            y,
            color=colour(i),
            linestyle=line(i),
            marker=marker,
            markersize=4,
            drawstyle=steps,
            label=label(arm.name),
        )
    shown = np.concatenate(seen)
    limit(axes, shown, sweep.mode == "min" and is_log(shown))
    whole_numbers(axes)
    if len(sweep.arms) > 1:
        figure.legend(loc="outside right upper")
    return figure


def curves(sweep: SweepResult) -> Figure | None:
    """The objective over a run's steps: the best trials of one arm, or the best trial of each."""
    chosen = []
    for i, arm in enumerate(sweep.arms):
        complete = [t for t in arm.trials if t.state == State.complete and t.value is not None and t.curve]
        ranked = sorted(complete, key=lambda t: (sweep.sign * (t.value or 0.0), t.number))
        for rank, trial in enumerate(ranked[: MOST_CURVES if len(sweep.arms) == 1 else 1]):
            name = f"{label(arm.name)}, " if arm.name else f"{trial.number}: "
            chosen.append((i + rank, trial, name + parameters(trial.params, arm.rate)))
    points = [v for _, trial, _ in chosen for v in trial.curve.values() if math.isfinite(v)]
    if not points:
        return None
    title = "Learning curves of the best trials" if len(sweep.arms) == 1 else "Learning curve of each one's best trial"
    figure, axes = new(title, "optimizer step", sweep.metric)
    for i, trial, name in chosen:
        x = sorted(trial.curve)
        y = np.array([trial.curve[step] for step in x])
        y[~np.isfinite(y)] = np.nan
        marker = "o" if len(x) <= 30 else ""
        axes.plot(x, y, color=colour(i), linestyle=line(i), marker=marker, markersize=3.5, label=label(name, 88))
    limit(axes, np.array(points), sweep.mode == "min" and is_log(points))
    whole_numbers(axes)
    figure.legend(loc="outside lower left", ncols=1 if any(len(name) > 34 for *_, name in chosen) else 2)
    return figure


def importances(sweep: SweepResult) -> Figure | None:
    """The share of each parameter, a bar for each arm."""
    found = {i: shares for i, arm in enumerate(sweep.arms) if (shares := importance(sweep, arm))}
    if not found:
        return None
    names = list(dict.fromkeys(name for shares in found.values() for name in shares))
    title = f"Parameter importance for {sweep.metric}"
    figure, axes = new(
        title, "share of what a model of the trials loses without the parameter", "", 1.4 + 0.45 * len(names)
    )
    height = 0.75 / len(found)
    for place, (i, shares) in enumerate(found.items()):
        y = np.arange(len(names)) + (place - (len(found) - 1) / 2) * height
        share = [shares.get(name, 0.0) for name in names]
        axes.barh(y, share, height * 0.92, color=colour(i), label=label(sweep.arms[i].name))
        for at, value in zip(y, share, strict=True):
            axes.text(value + 0.008, at, f"{value:.2f}", va="center", fontsize=9 if len(found) == 1 else 7)
    axes.set_yticks(range(len(names)), [label(name, 40) for name in names])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.08)
    if len(found) > 1:
        figure.legend(loc="outside right upper")
    return figure


def seeds(sweep: SweepResult) -> Figure | None:
    """Every confirmed seed, and the mean of each arm with its interval; crosses at the worse end for the diverged."""
    places = standings(sweep)
    if len(sweep.arms) < 2 or not any(math.isfinite(v) for s in places for v in s.arm.confirmed.values()):
        return None
    title = f"{sweep.metric} of each one's best parameters with fresh seeds"
    figure, axes = new(title, f"{sweep.metric}: mean, 95 % interval and single seeds", "", 1.3 + 0.5 * len(places))
    number_of = {arm.name: i for i, arm in enumerate(sweep.arms)}
    for y, standing in enumerate(places):
        shade = colour(number_of[standing.arm.name])
        single = [v for v in standing.arm.confirmed.values() if math.isfinite(v)]
        axes.plot(single, [y + 0.17] * len(single), "o", color=shade, markersize=4.5, alpha=0.65)
        if standing.diverged:  # a mean with untrained networks in it would stretch the axis and say little
            at_edge = axes.get_yaxis_transform()
            axes.plot(
                [1.0 if sweep.mode == "min" else 0.0],
                [y + 0.17],
                "x",
                color=shade,
                markeredgewidth=2,
                transform=at_edge,
                clip_on=False,
            )
            continue
        mean, width = standing.interval.mean, standing.interval.half_width
        axes.plot([mean], [y - 0.1], "D", color=shade, markersize=8)
        if width is not None:
            axes.errorbar([mean], [y - 0.1], xerr=[width], color=shade, capsize=4, elinewidth=2.2, capthick=2.2)
    if not places[0].diverged:
        axes.axvline(places[0].interval.mean, color="gray", linestyle=":", zorder=1)
    axes.set_yticks(range(len(places)), [label(s.arm.name) for s in places])
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    return figure


def _is_near(sweep: SweepResult, values: list[float], start: float) -> bool:
    """Whether the untrained network belongs into the picture: it does not where it would flatten everything else."""
    if sweep.mode == "min" and is_log([*values, start]):
        return True
    best, worst = sorted((min(values), max(values)), key=lambda v: sweep.sign * v)
    return abs(worst - best) >= 0.4 * abs(start - best)
