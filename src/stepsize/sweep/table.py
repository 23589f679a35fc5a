"""What a sweep says in the terminal: a line for each trial as it ends, a table and a sentence at the end."""

import math
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from stepsize.sweep import results
from stepsize.sweep.comparison import ALPHA, Standing, standings
from stepsize.sweep.notation import NOTHING, duration, interval, listed, number, p_value, parameters, rate, unbroken
from stepsize.sweep.results import FINISHED, ArmResult, State, SweepResult, TrialResult
from stepsize.sweep.statistics import basin, lr_sensitivity, rate_of

WIDTH = 100  # columns
_NAME = 12  # of them for an arm's name at least


@dataclass(frozen=True)
class Row:
    """One arm in words, for the table here and in the report.

    Args:
        arm: its name.
        rate: the best learning rate.
        objective: of the best trial.
        mean: over the confirmed seeds with its interval and their number.
        sensitivity: to the learning rate, over those that were tried, in the unit of the objective.
        basin: its width in decades; "≥" before one that reaches the lowest or highest learning rate tried.
        diverged: how many of how many finished trials.
        edge: the end of the range at which the best learning rate lies, or "no".
        time: of its search's trials together.
    """

    arm: str
    rate: str
    objective: str
    mean: str
    sensitivity: str
    basin: str
    diverged: str
    edge: str
    time: str


def row(sweep: SweepResult, arm: ArmResult, standing: Standing | None = None) -> Row:
    """An arm in words; `standing` is its own among the confirmed arms."""
    best = sweep.best(arm)
    width = basin(sweep, arm)
    finished = [t for t in arm.trials if t.state in FINISHED]
    seconds = [t.seconds for t in arm.trials if t.seconds is not None]
    return Row(
        arm=arm.name or sweep.name,
        rate=rate(rate_of(arm, best) if best else None),
        objective=number(best.value if best else None),
        mean=_mean(standing) if standing else NOTHING,
        sensitivity=number(lr_sensitivity(sweep, arm)),
        basin=NOTHING if width is None else f"{'≥' if width.is_open else ''}{width.decades:.2f}",
        diverged=f"{sum(t.state == State.diverged for t in finished)}/{len(finished)}",
        edge=edge(sweep, arm),
        time=duration(sum(seconds) if seconds else None),
    )


def rows(sweep: SweepResult) -> list[Row]:
    """The arms in words, in the order of `ranked`."""
    standing = {s.arm.name: s for s in standings(sweep)}
    return [row(sweep, arm, standing.get(arm.name)) for arm in ranked(sweep)]


def ranked(sweep: SweepResult) -> list[ArmResult]:
    """The arms: the best mean first, then those without confirmed seeds as in `by_best_trial`."""
    confirmed = [s.arm for s in standings(sweep)]
    return confirmed + [arm for arm in by_best_trial(sweep) if arm not in confirmed]


def by_best_trial(sweep: SweepResult) -> list[ArmResult]:
    """The arms, that with the best trial first; those without a complete trial last, as they were named."""

    def key(arm: ArmResult) -> float:
        best = sweep.best(arm)
        return math.inf if best is None or best.value is None else sweep.sign * best.value

    return sorted(sweep.arms, key=key)


def edge(sweep: SweepResult, arm: ArmResult) -> str:
    """The end of the range at which the best learning rate lies: "low", "high" or "no"; a dash without a range."""
    best = sweep.best(arm)
    at = best and rate_of(arm, best)
    if not at or not arm.low or not arm.high or not 0 < arm.low < arm.high:
        return NOTHING
    tried = [r for t in arm.trials if t.state in FINISHED and (r := rate_of(arm, t))]
    return results.edge(at, tried, arm.low, arm.high) or "no"


def progress(sweep: SweepResult, *arms: ArmResult) -> str:
    """How many trials of these arms have finished: "3 of 9", or "3" where one of them has more than were wanted."""
    done = [sum(t.state in FINISHED for t in arm.trials) for arm in arms]
    wanted = [sweep.n_trials + arm.added for arm in arms]
    more = any(d > w for d, w in zip(done, wanted, strict=True))
    of = "" if more else f" of {sum(wanted)}"
    return f"{sum(done)}{of}"


def conclusion(sweep: SweepResult) -> str:
    """What to take from the sweep, in one sentence."""
    if len(sweep.arms) == 1:
        return _single(sweep, sweep.arms[0])
    places = standings(sweep)
    if not places:
        ranked = [(arm, best) for arm in by_best_trial(sweep) if (best := sweep.best(arm))]
        if not ranked:
            return "No trial is complete yet."
        scores = [f"{arm.name} {number(best.value)}" for arm, best in ranked]
        after = f", before {listed(scores[1:])}" if scores[1:] else ""
        return f"{scores[0]} has the best trial{after}; one seed each, so nothing is said of chance."
    first, *others = places
    said = [f"{first.arm.name} {interval(first.interval)} is the best"]
    equal = [s.arm.name for s in others if s.p is not None and not s.is_worse]
    worse = [f"{s.arm.name} ({p_value(s.p)})" for s in others if s.p is not None and s.is_worse]
    unstable = [s for s in places if s.diverged]
    untested = [s.arm.name for s in others if s.p is None and not s.diverged]
    missing = [arm.name for arm in sweep.arms if not arm.confirmed]
    if equal:
        said.append(f"{listed(equal)} {_are(equal)} not distinguishable from it (p ≥ {ALPHA:.2g})")
    if worse:
        said.append(f"{listed(worse)} {_are(worse)} worse")
    said += [f"{s.arm.name} diverged with {s.diverged} of {s.interval.count} fresh seeds" for s in unstable]
    if untested:
        why = "its own diverged" if first.diverged else "fewer than two seeds are shared"
        said.append(f"{listed(untested)} {_are(untested)} behind, untested: {why}")
    if missing:
        said.append(f"{listed(missing)} {_are(missing)} not confirmed")
    return "; ".join(said) + "."


def table(sweep: SweepResult) -> str:
    """The arms and the conclusion as plain text, at most 100 columns wide: names of arms are cut for it, columns go."""
    found = rows(sweep)
    columns = {"best lr": [r.rate for r in found], sweep.metric: [r.objective for r in found]}
    if any(arm.confirmed for arm in sweep.arms):
        columns["mean ± 95 % (seeds)"] = [r.mean for r in found]
    columns["lr sens."] = [r.sensitivity for r in found]
    columns["basin"] = [r.basin for r in found]
    columns["diverged"] = [r.diverged for r in found]
    columns["edge"] = [r.edge for r in found]
    columns["time"] = [r.time for r in found]
    if all(arm.rate is None for arm in sweep.arms):
        for name in ("best lr", "lr sens.", "basin", "edge"):
            del columns[name]
    several = len(sweep.arms) > 1
    least = 2 + min(_NAME, max(_width(r.arm) for r in found)) if several else 0
    confirmed = any(arm.confirmed for arm in sweep.arms)
    for name in (sweep.metric, "time") if confirmed else ("time",):  # the mean says more than the best trial
        if least + len(_columns(columns)[0]) > WIDTH:
            del columns[name]
    lines = _columns(columns)
    if several:
        room = max(_NAME, WIDTH - max(map(len, lines)) - 2)
        names = [_cut(name, room) for name in ("arm", *(r.arm for r in found))]
        widest = max(map(_width, names))
        lines = [f"{name}{' ' * (widest - _width(name))}  {line}" for name, line in zip(names, lines, strict=True)]
    said = textwrap.wrap(unbroken(conclusion(sweep)), WIDTH, break_on_hyphens=False)
    return "\n".join([*lines, "", *(text.replace("\u00a0", " ") for text in said)])


def trial_line(sweep: SweepResult, arm: ArmResult, trial: TrialResult) -> str:
    """The line that a trial prints as it ends."""
    who = f"{arm.name} {trial.number}" if arm.name else f"trial {trial.number}"
    where = parameters(trial.params, arm.rate)
    took = f", {duration(trial.seconds)}" if trial.seconds is not None else ""
    at = f" at {where}" if where else ""
    match trial.state:
        case State.complete:
            best = sweep.best(arm)
            so_far = "  best so far" if best is not None and best.number == trial.number else ""
            return f"{who}: {sweep.metric} {number(trial.value)}{at}{took}{so_far}"
        case State.diverged:
            after = f": {trial.reason}" if trial.reason else ""
            return f"{who}: diverged{at}{took}{after}"
        case State.pruned:
            step = f" at step {max(trial.curve)}" if trial.curve else ""
            return f"{who}: pruned{step}, {sweep.metric} {number(trial.value)}{at}{took}"
        case State.failed:
            return f"{who}: failed: {trial.reason or 'no reason is known'}{at and f' ({where})'}{took}"
    return f"{who}: {trial.state.value}{at}"


def _single(sweep: SweepResult, arm: ArmResult) -> str:
    best = sweep.best(arm)
    finished = [t for t in arm.trials if t.state in FINISHED]
    if best is None:
        if finished and all(t.state == State.diverged for t in finished):
            return f"All {len(finished)} finished trials diverged."
        return "No trial is complete yet."
    place = f"trial {best.number}, {progress(sweep, arm)} finished"
    return f"Best: {parameters(best.params, arm.rate)}, {sweep.metric} {number(best.value)} ({place})."


def _mean(standing: Standing) -> str:
    lost = f", {standing.diverged} inf" if standing.diverged else ""
    return f"{interval(standing.interval)} ({standing.interval.count}{lost})"


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _columns(columns: dict[str, list[str]]) -> list[str]:
    widths = {title: max(len(title), *map(len, cells)) for title, cells in columns.items()}
    lines = ["  ".join(f"{title:>{widths[title]}}" for title in columns)]
    for cells in zip(*columns.values(), strict=True):
        lines += ["  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths.values(), strict=True))]
    return lines


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, room: int) -> str:
    while _width(text) > room:
        text = text.rstrip("…")[:-1] + "…"
    return text
