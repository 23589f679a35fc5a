from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stepsize.config import CONF
from stepsize.sweep import best
from stepsize.sweep.arms import applied
from stepsize.sweep.driver import Driver
from stepsize.sweep.job import Ended
from stepsize.sweep.read import read, words
from stepsize.sweep.results import ArmResult, State, SweepResult, TrialResult
from stepsize.sweep.storage import connect
from stepsize.sweep.sweep import About, Sweep

Made = Callable[..., Any]

optuna.logging.set_verbosity(optuna.logging.ERROR)


def plain(cfg: Any) -> dict[str, Any]:
    """The config without what names the run."""
    with applied(cfg) as task:
        found: Any = OmegaConf.to_container(task, resolve=True, enum_to_str=True)
    return {key: value for key, value in found.items() if key not in ("name", "run_dir", "sweep")}


def as_an_experiment(file: Path) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        path = f"hydra.searchpath=[file://{file.parent.parent}]"
        return plain(compose("train", [f"experiment={file.stem}", path], return_hydra_config=True))


@pytest.mark.parametrize(
    "typed_words",
    [
        ("sweep=lr", "optimizer=lion"),
        (
            "sweep=lr",
            "experiment=digits_mlp",
            "model.widths=[64,32]",
            "seed=3",
            "task.label_smoothing=0.1,0.2",
        ),
        (
            "sweep=lr",
            "optimizer=momentum",
            "schedule=cosine,linear",
            "trainer.precision='32-true','bf16-mixed'",
            "model.widths=[8],[16,8]",
            "param_groups.patterns=[{pattern: 'head, x', lr_scale: 10}]",
        ),
        pytest.param(("sweep=compare", "optimizer=lion,sgd", "trainer=cpu"), marks=pytest.mark.slow),
        pytest.param(
            ("sweep=lr", "experiment=digits_mlp", "optimizer=sgd", "callbacks=minimal", "logger=none"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_best_yaml_as_an_experiment_is_the_config_of_the_best_trial(
    tmp_path: Path, url: str, typed: Made, in_process: Made, typed_words: tuple[str, ...]
) -> None:
    def ends(params: Mapping[str, Any], number: int) -> Ended:
        return Ended("complete", -float(number))  # the last is the best, which no default is

    command = typed(*typed_words, "sweep.n_trials=2", "sweep.sampler=random", "sweep.confirm_seeds=0")
    arms = command.arms()
    sweep = Sweep(connect(url), command.options, arms, About("s", ("python", "train.py"), typed_words, (), {}))
    Driver(sweep, in_process(ends), 0, lambda *told: None).run(raises=False)
    result = read(sweep.storage, "s")
    file = tmp_path / "conf" / "experiment" / "found.yaml"
    file.parent.mkdir(parents=True)
    best.write(sweep.storage, result, file)
    trial = plain(command.compose(words(sweep.searches[0].study)))
    assert as_an_experiment(file) == trial
    said = file.read_text()
    most = max(trial.number for trial in result.arms[0].trials)
    assert said.startswith(f"# @package _global_\n# The best of s: val/loss -{most}.000\n")
    assert f"#     {result.arms[0].command}\n" in said


def test_where_no_trial_is_complete_there_is_no_best_yaml(tmp_path: Path, swept: Made, arm: Made) -> None:
    sweep = swept(arm())
    file = tmp_path / "best.yaml"
    file.write_text("old")
    best.write(sweep.storage, read(sweep.storage, "study"), file)
    assert not file.exists()


def compared(mode: str, *arms: ArmResult) -> SweepResult:
    return SweepResult("s", "val/loss", mode, 1, arms, "grid", "none", "")


def result_of(name: str, value: float | None, **confirmed: float) -> ArmResult:
    trial = TrialResult(0, State.complete if value is not None else State.failed, value)
    return ArmResult(name, (), (trial,), confirmed={int(seed[1:]): v for seed, v in confirmed.items()})


@pytest.mark.parametrize(
    ("mode", "arms", "name"),
    [
        ("min", (result_of("a", 0.2), result_of("b", 0.1)), "b"),
        ("max", (result_of("a", 0.2), result_of("b", 0.1)), "a"),
        ("min", (result_of("a", 0.2, s1=0.1, s2=0.1), result_of("b", 0.1, s1=0.3, s2=0.2)), "a"),
        ("max", (result_of("a", 0.2, s1=0.1), result_of("b", 0.1, s1=0.3)), "b"),
        ("min", (result_of("a", 0.2, s1=0.1), result_of("b", 0.1)), "b"),  # not all confirmed yet
        ("min", (result_of("a", None), result_of("b", 0.1)), "b"),
    ],
)
def test_the_best_arm_is_that_of_the_best_mean_where_all_were_confirmed(
    mode: str, arms: tuple[ArmResult, ...], name: str
) -> None:
    found = best.best_arm(compared(mode, *arms))
    assert found is not None
    assert found.name == name


def test_of_arms_without_a_complete_trial_none_is_best() -> None:
    assert best.best_arm(compared("min", result_of("a", None))) is None
