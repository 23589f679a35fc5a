"""What the terminal says fits into it, and is so."""

import csv
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from stepsize.sweep import trials_csv
from stepsize.sweep.comparison import Interval
from stepsize.sweep.notation import duration, interval, number, p_value, parameters, short_names
from stepsize.sweep.results import ArmResult, State, SweepResult, TrialResult
from stepsize.sweep.table import conclusion, edge, progress, rows, table, trial_line

LION = {1: 0.070, 2: 0.072, 3: 0.071, 4: 0.073}
MUON = {1: 0.071, 2: 0.071, 3: 0.073, 4: 0.072}
SGD = {1: 0.120, 2: 0.123, 3: 0.119, 4: 0.124}


def trial(number: int, lr: float, value: float | None, **more: object) -> TrialResult:
    state = State.complete if value is not None and math.isfinite(value) else State.diverged
    return replace(TrialResult(number, state, value, {"optimizer.lr": lr}, {20: 0.5, 40: 0.4}, 3.14), **more)


def an_arm(name: str, confirmed: Mapping[int, float], best: float = 0.07, lr: float = 1e-3) -> ArmResult:
    trials = (trial(0, 1e-4, 0.2), trial(1, lr, best), trial(2, 1e-1, math.inf))
    return ArmResult(name, (), trials, "optimizer.lr", 1e-5, 1e-1, at_init=2.3, confirmed=confirmed)


def swept(*arms: ArmResult, mode: str = "min", n_trials: int = 3) -> SweepResult:
    return SweepResult("study", "val/loss", mode, n_trials, arms, "grid", "none", "python train.py -m")


COMPARED = swept(an_arm("sgd", SGD), an_arm("muon", MUON), an_arm("lion", LION))


def test_a_comparison_says_who_is_best_who_is_as_good_and_who_is_worse() -> None:
    assert conclusion(COMPARED) == (
        "lion 0.07150 ± 0.00205 is the best; muon is not distinguishable from it (p ≥ 0.05); sgd (p < 0.001) is worse."
    )


def test_two_that_are_worse_are_worse_in_the_plural() -> None:
    sweep = swept(an_arm("lion", LION), an_arm("sgd", SGD), an_arm("momentum", SGD))
    assert conclusion(sweep).endswith("; sgd (p < 0.001) and momentum (p < 0.001) are worse.")


def test_one_seed_each_is_not_called_a_test() -> None:
    sweep = swept(an_arm("lion", {1: 0.07}), an_arm("sgd", {1: 0.12}))
    assert conclusion(sweep) == ("lion 0.07000 is the best; sgd is behind, untested: fewer than two seeds are shared.")


def test_an_arm_whose_seed_diverged_is_named() -> None:
    sweep = swept(an_arm("lion", LION), an_arm("sgd", {**SGD, 2: math.inf}), an_arm("muon", {}))
    assert conclusion(sweep).endswith("best; sgd diverged with 1 of 4 fresh seeds; muon is not confirmed.")


def test_before_seeds_are_confirmed_the_best_trials_are_all_there_is() -> None:
    sweep = swept(an_arm("sgd", {}, 0.12), an_arm("lion", {}, 0.07))
    assert conclusion(sweep) == (
        "lion 0.07000 has the best trial, before sgd 0.1200; one seed each, so nothing is said of chance."
    )


def test_a_single_arm_says_its_best_trial() -> None:
    assert conclusion(swept(an_arm("", {}), n_trials=9)) == (
        "Best: lr 1.000e-03, val/loss 0.07000 (trial 1, 3 of 9 finished)."
    )


@pytest.mark.parametrize(("wanted", "said"), [(4, "3 of 4 finished"), (3, "3 of 3 finished"), (2, "3 finished")])
def test_no_more_have_finished_than_were_wanted(wanted: int, said: str) -> None:
    assert conclusion(swept(an_arm("", {}), n_trials=wanted)).endswith(f"(trial 1, {said}).")


def test_an_arm_with_trials_to_spare_does_not_hide_what_another_lacks() -> None:
    full = an_arm("a", {})
    half = replace(full, name="b", trials=full.trials[:1])
    assert progress(swept(full, half), full, half) == "4 of 6"
    assert progress(swept(full, half, n_trials=2), full, half) == "4"


def test_the_basin_is_open_at_the_last_learning_rate_tried_and_not_at_the_end_of_the_range() -> None:
    arm = ArmResult("", (), (trial(0, 1e-3, 1.0), trial(1, 0.1, 0.5)), "optimizer.lr", 1e-3, 10.0, at_init=2.3)
    found = rows(swept(arm))[0]
    assert (found.sensitivity, found.basin) == ("0.2500", "≥0.36")  # 2 (0.05 (2.3 - 0.5))/(1 - 0.5)


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ((), "No trial is complete yet."),
        ((trial(0, 1e-3, None, state=State.running),), "No trial is complete yet."),
        ((trial(0, 1e-3, math.inf), trial(1, 1e-2, math.inf)), "All 2 finished trials diverged."),
    ],
)
def test_without_a_complete_trial_the_sentence_says_so(trials: tuple[TrialResult, ...], said: str) -> None:
    sweep = swept(ArmResult("", (), trials, "optimizer.lr", 1e-5, 1e-1))
    assert conclusion(sweep) == said
    assert said in table(sweep)


def test_the_table_has_a_line_for_each_arm_the_best_first() -> None:
    lines = table(COMPARED).splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["arm", "lion", "muon", "sgd"]
    assert lines[1].split()[1:] == [
        *("1.000e-03", "0.07000", "0.07150", "±", "0.00205", "(4)"),
        *("0.7650", "0.96", "1/3", "no", "9.4", "s"),
    ]


def test_more_is_better_where_the_mode_says_so() -> None:
    sweep = swept(an_arm("low", {}, 0.8), an_arm("high", {}, 0.9), mode="max")
    assert [r.arm for r in rows(sweep)] == ["high", "low"]


@pytest.mark.parametrize("confirmed", [LION, {**LION, 2: math.inf}, {}])
@pytest.mark.parametrize(
    "name", ["lion", "optimizer=schedule_free_adamw,schedule=warmup_cosine", "学習率の最適化手法の比較"]
)
@pytest.mark.parametrize("metric", ["val/loss", "val/perplexity_per_byte"])
def test_no_line_is_wider_than_the_terminal(confirmed: Mapping[int, float], name: str, metric: str) -> None:
    arm = an_arm(name, confirmed)
    slow = replace(arm, trials=tuple(replace(t, seconds=40000.0) for t in arm.trials))
    sweep = replace(swept(slow, replace(slow, name=f"{name}_")), metric=metric)
    assert max(map(len, table(sweep).splitlines())) <= 100


def test_wide_letters_leave_the_columns_straight() -> None:
    lines = table(swept(an_arm("学習率", {}), an_arm("lion", {}))).splitlines()[:3]
    ends = {sum(2 if letter in "学習率" else 1 for letter in text) for text in lines}
    assert len(ends) == 1


def test_without_a_learning_rate_the_table_has_no_column_of_it() -> None:
    arm = replace(an_arm("", {}), rate=None, low=None, high=None)
    assert table(swept(arm)).splitlines()[0].split() == ["val/loss", "diverged", "time"]


@pytest.mark.parametrize(("lr", "end"), [(1.2e-5, "low"), (9e-2, "high"), (1e-3, "no")])
def test_the_edge_is_named(lr: float, end: str) -> None:
    arm = an_arm("", {}, lr=lr)
    arm = replace(arm, trials=arm.trials[:2])
    assert edge(swept(arm), arm) == end


def test_learning_rates_typed_as_text_have_an_edge_too() -> None:
    arm = replace(an_arm("", {}), trials=(trial(0, "1e-5", 0.1), trial(1, "1e-2", 0.2)))  # type: ignore[arg-type]
    assert edge(swept(arm), arm) == "low"


def test_a_range_of_no_width_has_no_edge() -> None:
    arm = replace(an_arm("", {}), low=1e-3, high=1e-3)
    assert edge(swept(arm), arm) == "–"  # noqa: RUF001


@pytest.mark.parametrize(
    ("ended", "line"),
    [
        (trial(1, 3.162e-4, 0.07), "lion 1: val/loss 0.07000 at lr 3.162e-04, 3.1 s  best so far"),
        (trial(5, 3.162e-4, 0.0812), "lion 5: val/loss 0.08120 at lr 3.162e-04, 3.1 s"),
        (
            trial(7, 0.1, math.inf, reason="train/loss is nan at step 40"),
            "lion 7: diverged at lr 1.000e-01, 3.1 s: train/loss is nan at step 40",
        ),
        (
            trial(6, 1e-5, 1.5, state=State.pruned, curve={50: 2.0, 100: 1.5}),
            "lion 6: pruned at step 100, val/loss 1.500 at lr 1.000e-05, 3.1 s",
        ),
        (
            trial(8, 1e-5, None, state=State.failed, reason="ValueError: no", seconds=None),
            "lion 8: failed: ValueError: no (lr 1.000e-05)",
        ),
        (trial(9, 1e-5, None, state=State.waiting, seconds=None), "lion 9: waiting at lr 1.000e-05"),
    ],
)
def test_a_trial_says_in_a_line_how_it_ended(ended: TrialResult, line: str) -> None:
    arm = an_arm("lion", {})
    arm = replace(arm, trials=(*(t for t in arm.trials if t.number != ended.number), ended))
    assert trial_line(swept(arm), arm, ended) == line


def test_without_arms_a_trial_is_called_a_trial() -> None:
    arm = an_arm("", {})
    assert trial_line(swept(arm), arm, arm.trials[0]).startswith("trial 0: val/loss 0.2000 at lr")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.0712, "0.07120"), (2.30259, "2.303"), (1.2e-5, "1.200e-05"), (0.0, "0.000"), (123456.0, "1.235e+05")],
        *[(1234.5, "1234"), (math.inf, "inf"), (-math.inf, "-inf"), (-0.5, "-0.5000"), (0.99999, "1.000")],
    ],
)
def test_numbers_have_four_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("mean", "half_width", "text"),
    [
        *[(0.0712, 0.0031, "0.07120 ± 0.00310"), (92.8, 0.37, "92.80 ± 0.37"), (0.5, None, "0.5000")],
        *[(0.5, 1e-7, "0.5000 ± 1.000e-07"), (0.5, 0.0, "0.5000 ± 0.0000"), (1e-5, 2e-6, "1.000e-05 ± 2.000e-06")],
    ],
)
def test_an_interval_has_the_decimals_of_its_mean(mean: float, half_width: float | None, text: str) -> None:
    assert interval(Interval(mean, half_width, 3)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.14, "3.1 s"), (59.97, "1 min 00 s"), (245.0, "4 min 05 s"), (7400.0, "2 h 03 min"), (3599.7, "1 h 00 min")],
)
def test_times_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_probabilities_are_not_more_certain_than_they_are() -> None:
    assert [p_value(0.0004), p_value(0.0132), p_value(0.2)] == ["p < 0.001", "p = 0.013", "p = 0.2"]


def test_parameters_are_called_by_their_last_word_where_that_is_enough() -> None:
    assert short_names(["a.lr", "b.lr", "model.width"]) == {"a.lr": "a.lr", "b.lr": "b.lr", "model.width": "width"}
    said = parameters(
        {"optimizer.lr": 3.1623e-4, "model.width": 64, "schedule": "cosine", "p": 0.123456}, "optimizer.lr"
    )
    assert said == "lr 3.162e-04, width 64, schedule cosine, p 0.1235"


def test_the_csv_has_every_trial_and_every_digit(tmp_path: Path) -> None:
    odd = trial(3, 1 / 3, None, state=State.failed, folder="a/3", retry_of=1, reason='said "no",\nand left')
    arm = an_arm("lion,cosine", {})
    arm = replace(arm, trials=(*arm.trials, odd, trial(4, 1e-3, 0.1, params={"state": "x", "model.width": 64})))
    trials_csv.write(swept(arm), tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file, strict=True))
    assert list(read[0]) == [
        *("arm", "number", "state", "objective", "optimizer.lr", "params.state", "model.width"),
        *("seconds", "steps", "retry_of", "folder", "reason"),
    ]
    assert [line["objective"] for line in read] == ["0.2", "0.07", "inf", "", "0.1"]
    assert list(read[3].values()) == [
        *("lion,cosine", "3", "failed", "", str(1 / 3), "", ""),
        *("3.14", "40", "1", "a/3", 'said "no",\nand left'),
    ]
    assert [read[4][name] for name in ("optimizer.lr", "state", "params.state", "model.width")] == [
        *("", "complete", "x", "64")
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["trials.csv"]


def test_the_csv_of_no_trials_is_its_header(tmp_path: Path) -> None:
    trials_csv.write(swept(ArmResult("", (), ())), tmp_path / "trials.csv")
    header = b"arm,number,state,objective,seconds,steps,retry_of,folder,reason\r\n"
    assert (tmp_path / "trials.csv").read_bytes() == header
