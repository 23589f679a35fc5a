"""What the report says in words: what to beware of, and what to do next."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from stepsize.sweep import report
from stepsize.sweep.results import ArmResult, State, SweepResult, TrialResult

INF = math.inf
LION = {1: 0.070, 2: 0.072, 3: 0.071, 4: 0.073}
SGD = {1: 0.120, 2: 0.123, 3: 0.119, 4: 0.124}


def an_arm(name: str = "", confirmed: dict[int, float] | None = None, **more: object) -> ArmResult:
    found = {1e-4: 0.4, 1e-3: 0.07, 1e-2: 0.2, 1e-1: INF}
    trials = tuple(
        TrialResult(
            i,
            State.complete if math.isfinite(v) else State.diverged,
            v,
            {"optimizer.lr": lr},
            {20: v + 1, 40: v},
            seconds=2.0,
            folder=f"a b/{i}",
            reason="" if math.isfinite(v) else "train/loss is nan",
        )
        for i, (lr, v) in enumerate(found.items())
    )
    command = f"python train.py optimizer={name or 'lion'} optimizer.lr=0.001"
    arm = ArmResult(
        name, (), trials, "optimizer.lr", 1e-5, 1.0, at_init=2.3, confirmed=confirmed or {}, command=command
    )
    return replace(arm, **more)


def swept(*arms: ArmResult, n_trials: int = 4) -> SweepResult:
    command = "python train.py -m sweep=lr"
    return SweepResult("study", "val/loss", "min", n_trials, arms, "grid", "none", command, {"torch": "2.13.0"})


def test_the_notes_say_what_to_beware_of() -> None:
    arm = an_arm()
    more = (
        TrialResult(4, State.failed, reason="ValueError: no"),
        TrialResult(5, State.failed, reason="ValueError: no"),
        TrialResult(6, State.running, retry_of=2),
    )
    rates = (0.3, 0.9, 0.1, 0.2)
    trials = [replace(t, params={"optimizer.lr": lr}) for t, lr in zip(arm.trials, rates, strict=True)]
    arm = replace(arm, trials=(*trials, *more), widened=2, at_init=None)
    assert report.notes(swept(arm, n_trials=9)) == [
        "Not finished: 4 of 9 trials, 1 running.",
        "The range was widened by 2 decades, since the best learning rate lay at its edge.",
        "The best learning rate lies at the high end of the range; one beyond it may be better.",
        "The objective before training is not known; a diverged trial counts as the worst finite value instead.",
        "Trial 6 repeats trial 2, which was killed.",
        "Trials 4 and 5 failed: ValueError: no",
    ]


def test_a_sweep_without_trouble_has_no_notes() -> None:
    assert report.notes(swept(an_arm())) == []


def test_of_several_arms_a_note_says_whose_it_is() -> None:
    sweep = swept(an_arm("a"), an_arm("b", widened=1))
    said = "b: the range was widened by a decade, since the best learning rate lay at its edge."
    assert report.notes(sweep) == [said]


def test_the_commands_reproduce_continue_and_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs", "my sweep")
    folder.mkdir(parents=True)
    (folder / "study.db").touch()
    lines = [c.line for c in report.commands(swept(an_arm("sgd"), an_arm("lion", command="")), folder)]
    assert lines == [
        "python train.py optimizer=sgd optimizer.lr=0.001",
        "python train.py -m sweep=lr",
        "tensorboard --logdir 'runs/my sweep'",
        f"optuna-dashboard 'sqlite:///{folder.absolute()}/study.db'",
    ]


def test_the_first_command_is_that_of_the_best_mean_not_of_the_luckiest_trial(tmp_path: Path) -> None:
    lucky = an_arm("sgd", SGD, trials=(TrialResult(0, State.complete, 0.01, {"optimizer.lr": 1e-3}),))
    found = report.commands(swept(lucky, an_arm("muon"), an_arm("lion", LION)), tmp_path)
    assert [c.does for c in found[:3]] == [f"Reproduce the best of {name}" for name in ("lion", "sgd", "muon")]


def test_without_a_database_here_no_dashboard_is_promised(tmp_path: Path) -> None:
    assert "optuna-dashboard" not in str(report.commands(swept(an_arm()), tmp_path))


def test_an_arm_is_finished_though_only_another_was_widened() -> None:
    sweep = swept(an_arm("adamw"), an_arm("lion", widened=1, added=2))
    notes = [note for note in report.notes(sweep) if "not finished" in note]
    assert notes == ["lion: not finished: 4 of 6 trials."]
