"""best.yaml: the best trial as an experiment, to be run again and built upon."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.storages import BaseStorage

from stepsize.data.files import whole_file
from stepsize.sweep.notation import number
from stepsize.sweep.read import words
from stepsize.sweep.results import ArmResult, SweepResult


def write(storage: BaseStorage, sweep: SweepResult, path: Path) -> None:
    """Write the best trial of the best arm, whole or not at all; nothing where no trial is complete.

    Args:
        storage: of the sweep's studies.
        sweep: what they found.
        path: of the file.
    """
    arm = best_arm(sweep)
    best = sweep.best(arm) if arm else None
    if arm is None or best is None:
        path.unlink(missing_ok=True)
        return
    name = f"{sweep.name}/{arm.name}" if arm.name else sweep.name
    study = optuna.load_study(study_name=name, storage=storage)
    about = study.user_attrs["arm"]
    choices, values = dict(about["choices"]), dict(about["departures"])
    parser = OverridesParser.create()
    searched = {name.lstrip("+") for name in best.params}
    for override in parser.parse_overrides(words(study)):
        key = override.key_or_group
        if key in choices:
            choices[key] = str(override.value())
        elif key in searched:
            values[key] = override.value()
    text = _header(sweep, arm, path, number(best.value)) + _yaml(choices, values)
    with whole_file(path) as partial:
        partial.write(text.encode())


def best_arm(sweep: SweepResult) -> ArmResult | None:
    """The arm that is best: by the mean over fresh seeds where all were confirmed, else by the best trial."""
    arms = [arm for arm in sweep.arms if sweep.best(arm) is not None]
    if arms and all(arm.confirmed for arm in arms):
        return min(arms, key=lambda a: sweep.sign * sum(a.confirmed.values()) / len(a.confirmed))
    return min(arms, key=lambda a: sweep.sign * (sweep.best(a).value or 0.0), default=None)  # type: ignore[union-attr]


def _header(sweep: SweepResult, arm: ArmResult, path: Path, value: str) -> str:
    shown = os.path.relpath(path)
    return (
        "# @package _global_\n"
        f"# The best of {sweep.name}: {sweep.metric} {value}\n"
        "#\n"
        f"#     {arm.command}\n"
        "#\n"
        f"# As an experiment: cp {shown} conf/experiment/NAME.yaml; python train.py experiment=NAME\n"
    )


def _yaml(choices: Mapping[str, str], values: Mapping[str, Any]) -> str:
    tree = OmegaConf.create(
        {"defaults": [{f"override /{group}": word} for group, word in reversed(list(choices.items()))]}
    )
    for key, value in values.items():
        OmegaConf.update(tree, key, value, force_add=True)
    return OmegaConf.to_yaml(tree)
