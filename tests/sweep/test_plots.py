"""The figures show what was found: every trial in its place, marked for how it ended."""

import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from stepsize.sweep import plots
from stepsize.sweep.axes_style import INK, PALETTE, colour, label, line, style
from stepsize.sweep.results import ArmResult, State, SweepResult, TrialResult

INF = math.inf


def an_arm(name: str = "", values: Mapping[float, float] | None = None, **more: object) -> ArmResult:
    """One trial a learning rate; those of infinite value diverged."""
    found = values or {1e-4: 0.4, 1e-3: 0.07, 1e-2: 0.2, 1e-1: INF}
    trials = tuple(
        TrialResult(
            i,
            State.complete if math.isfinite(v) else State.diverged,
            v,
            {"optimizer.lr": lr},
            {20 * k: v + 2 / k for k in (1, 2, 3)},
        )
        for i, (lr, v) in enumerate(found.items())
    )
    return replace(ArmResult(name, (), trials, "optimizer.lr", 1e-4, 1e-1, at_init=2.3), **more)


def swept(*arms: ArmResult, mode: str = "min") -> SweepResult:
    return SweepResult("study", "val/loss", mode, 4, arms, "grid", "none", "")


def axes_of(figure: Figure | None) -> Axes:
    assert figure is not None
    return figure.axes[0]


def marks(axes: Axes, marker: str) -> list[tuple[float, float]]:
    """Where a marker stands."""
    found = [p for p in axes.lines if p.get_marker() == marker]
    return [(float(x), float(y)) for p in found for x, y in zip(p.get_xdata(), p.get_ydata(), strict=True)]


def said(figure: Figure | None) -> list[str]:
    """What the legend says."""
    assert figure is not None
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_every_trial_stands_at_its_learning_rate_and_the_best_has_a_star() -> None:
    axes = axes_of(plots.rate(swept(an_arm())))
    assert marks(axes, "o") == [(1e-4, 0.4), (1e-3, 0.07), (1e-2, 0.2)]
    assert marks(axes, "*") == [(1e-3, 0.07)]


@pytest.mark.parametrize(("mode", "end"), [("min", 1), ("max", 0)])
def test_diverged_trials_are_crosses_at_the_worse_edge(mode: str, end: int) -> None:
    axes = axes_of(plots.rate(swept(an_arm(at_init=None), mode=mode)))
    assert marks(axes, "x") == [(1e-1, axes.get_ylim()[end])]


def test_the_axes_are_logarithmic_and_end_just_above_the_untrained_network() -> None:
    figure = plots.rate(swept(an_arm(values={1e-4: 0.4, 1e-3: 0.07, 1e-2: 900.0})))
    axes = axes_of(figure)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert 2.3 < axes.get_ylim()[1] < 4
    assert "untrained 2.300" in said(figure)


def test_an_untrained_network_that_would_flatten_everything_stays_off_the_axis() -> None:
    figure = plots.rate(swept(an_arm(values={1e-4: 0.90, 1e-3: 0.97, 1e-2: 0.93}, at_init=0.1), mode="max"))
    low, high = axes_of(figure).get_ylim()
    assert 0.8 < low < 0.9
    assert 0.97 < high < 1
    assert axes_of(figure).get_yscale() == "linear"
    assert "untrained 0.1000\n(off the axis)" in said(figure)


def test_pruned_trials_are_hollow() -> None:
    arm = an_arm()
    arm = replace(arm, trials=(replace(arm.trials[0], state=State.pruned), *arm.trials[1:]))
    axes = axes_of(plots.rate(swept(arm)))
    hollow = [p for p in axes.lines if p.get_marker() == "o" and p.get_markerfacecolor() == "none"]
    assert [list(p.get_xdata()) for p in hollow] == [[1e-4]]


def test_the_basin_of_a_single_arm_is_shaded() -> None:
    figure = plots.rate(swept(an_arm()))
    assert len(axes_of(figure).patches) == 1
    assert "basin, 1.20 decades" in said(figure)


def test_arms_have_a_colour_each_and_a_name() -> None:
    figure = plots.rate(swept(*(an_arm(f"_arm{i}") for i in range(8))))
    stars = [p for p in axes_of(figure).lines if p.get_marker() == "*"]
    assert len({to_hex(p.get_color()) for p in stars}) == 8
    assert [text.strip() for text in said(figure)[:8]] == [f"_arm{i}" for i in range(8)]


def test_an_arm_of_which_all_diverged_still_has_its_crosses() -> None:
    figure = plots.rate(swept(an_arm("a"), an_arm("b", {1e-3: INF, 1e-2: INF}, at_init=None)))
    assert [x for x, _ in marks(axes_of(figure), "x")] == [1e-1, 1e-3, 1e-2]


def test_lines_tell_apart_what_shares_a_colour() -> None:
    assert len({(colour(i), line(i)) for i in range(32)}) == 32
    assert len(set(PALETTE)) == 8


def test_without_a_learning_rate_there_is_no_figure_of_it() -> None:
    assert "rate" not in plots.figures(swept(an_arm(rate=None)))


@pytest.mark.parametrize(
    "arm",
    [
        an_arm(trials=()),
        an_arm(values={1e-3: INF, 1e-2: INF}, at_init=None),
        an_arm(trials=(TrialResult(0, State.running, None, {"optimizer.lr": 1e-3}),)),
    ],
    ids=["none", "all diverged", "running"],
)
def test_nothing_to_show_is_not_shown(arm: ArmResult) -> None:
    assert plots.figures(swept(arm)) == {}


def test_one_trial_is_enough_for_a_picture() -> None:
    assert list(plots.figures(swept(an_arm(values={1e-3: 0.5})))) == ["rate", "budget", "curves"]


def test_a_budget_of_exchangeable_trials_is_expected_with_a_band() -> None:
    axes = axes_of(plots.figures(swept(an_arm(exchangeable=True)))["budget"])
    assert axes.get_title(loc="left") == "Expected best val/loss of a budget"
    assert len(axes.collections) == 1
    mean = (0.4 + 0.07 + 0.2 + 2.3) / 4  # the diverged one counts as untrained
    assert axes.lines[0].get_ydata()[0] == pytest.approx(mean)
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(0.07)


def test_a_budget_of_other_trials_is_what_happened_and_says_so() -> None:
    axes = axes_of(plots.figures(swept(an_arm(values={1e-4: 0.4, 1e-3: INF, 1e-2: 0.2})))["budget"])
    assert axes.get_title(loc="left") == "Best val/loss so far, in order of trials"
    assert not axes.collections
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.4, 0.4, 0.2])


def test_the_curves_of_one_arm_are_those_of_its_five_best() -> None:
    figure = plots.curves(swept(an_arm(values={10.0**-k: 0.1 * k for k in range(1, 8)})))
    assert said(figure)[0] == "0: lr 1.000e-01"
    assert len(said(figure)) == 5
    assert axes_of(figure).lines[0].get_xdata().tolist() == [20, 40, 60]


def test_the_curves_of_several_arms_are_those_of_their_best() -> None:
    assert said(plots.curves(swept(an_arm("a"), an_arm("b")))) == ["a, lr 1.000e-03", "b, lr 1.000e-03"]


def test_a_curve_has_a_gap_where_it_was_not_finite() -> None:
    arm = an_arm()
    broken = replace(arm.trials[1], curve={20: 2.0, 40: INF, 60: 0.1})
    y = axes_of(plots.curves(swept(replace(arm, trials=(broken,))))).lines[0].get_ydata()
    assert np.isnan(y).tolist() == [False, True, False]


def test_seeds_stand_beside_their_mean_and_interval() -> None:
    arms = an_arm("a", confirmed={1: 0.1, 2: 0.3}), an_arm("b", confirmed={1: 0.5, 2: INF})
    figure = plots.seeds(swept(*arms))
    axes = axes_of(figure)
    assert [x for x, _ in marks(axes, "o")] == [0.1, 0.3, 0.5]
    assert [x for x, _ in marks(axes, "D")] == [pytest.approx(0.2)]
    assert [x for x, _ in marks(axes, "x")] == [1.0]  # of the axis: its right end
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]


def test_importance_is_drawn_where_several_parameters_were_searched() -> None:
    trials = tuple(
        TrialResult(i, State.complete, 0.1 * (i % 4), {"optimizer.lr": 10.0 ** -(1 + i % 4), "width": 8 * (1 + i % 3)})
        for i in range(12)
    )
    figure = plots.figures(swept(an_arm(trials=trials)))["importance"]
    assert sum(bar.get_width() for bar in axes_of(figure).patches) == pytest.approx(1)
    assert axes_of(figure).get_yticklabels()[0].get_text() == "optimizer.lr"


def test_drawing_leaves_the_settings_of_matplotlib_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    plots.figures(swept(an_arm("a"), an_arm("b")))
    assert dict(matplotlib.rcParams) == before


def test_the_users_own_settings_do_not_change_the_figures() -> None:
    with matplotlib.rc_context({"axes.facecolor": "#123456", "lines.linewidth": 9.0}):
        axes = axes_of(plots.figures(swept(an_arm()))["curves"])
    assert to_hex(axes.get_facecolor()) == "#ffffff"
    assert axes.lines[0].get_linewidth() == 1.6


@pytest.mark.parametrize("name", ["$x^2$", "a_b", "100 %", "<b>&", "_hidden", r"$\frac{$", "$"])
def test_a_name_is_drawn_as_it_is(name: str) -> None:
    sweep = swept(an_arm(name, confirmed={1: 0.1, 2: 0.2}), an_arm("b"))
    with style(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in plots.figures(sweep).values():
            figure.savefig(io.BytesIO(), format="png", dpi=40)
    assert said(plots.rate(sweep))[0].strip() == name
    assert said(plots.budget(sweep))[0].strip() == name


def test_a_long_name_is_cut() -> None:
    assert label("x" * 30) == "x" * 23 + "…"
    assert label("x" * 24) == "x" * 24


def test_text_is_drawn_in_ink() -> None:
    axes = axes_of(plots.figures(swept(an_arm()))["rate"])
    assert axes.xaxis.label.get_color() == INK
