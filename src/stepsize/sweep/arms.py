"""From a command line to what is to be searched: the arms of a sweep, each with its space and its fixed words."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.distributions import CategoricalDistribution

from stepsize.errors import ConfigError
from stepsize.signature import load
from stepsize.sweep import space
from stepsize.sweep.options import Options, Purpose
from stepsize.sweep.space import Space

Compose = Callable[[Sequence[str]], DictConfig]  # overrides to a config with Hydra's own node

# What a trial's result does not depend on, or what names the run instead of describing it.
_RUN = ("name", "run_dir", "resume", "mode", "data.root")
_FREE = (*_RUN, "logger", "callbacks.progress", "callbacks.checkpoint", "trainer.enable_progress_bar")
_MOST_CHECKED = 16


@dataclass(frozen=True)
class Arm:
    """What one study searches.

    Args:
        name: "" where there is one arm only.
        words: the overrides that make the arm.
        overrides: of all its trials, `words` among them.
        space: searched parameters, the learning rate's derived range included.
        derived: the learning rate, where its range is derived and not typed.
        config: of its trials as plain data, without what is searched.
        choices: group to the word that was chosen.
        departures: dotted key to value, where the config departs from what the choices alone compose.
    """

    name: str
    words: tuple[str, ...]
    overrides: tuple[str, ...]
    space: Space
    derived: str | None
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    departures: Mapping[str, Any]


def arms(options: Options, arguments: Sequence[str], compose: Compose, loader: ConfigLoader | None = None) -> list[Arm]:
    """What a command line asks for, checked: every arm composes, and is not refused.

    Args:
        options: of the sweep.
        arguments: the words of the command line, and nothing of Hydra's own.
        compose: makes a trial's config.
        loader: Hydra's, which knows the words that a glob stands for.

    Raises:
        ConfigError: what cannot be searched; and what composition or `options.check` refuse.
    """
    mine = [text for text in arguments if not _belongs(text, options.node)]
    words = space.read([*(f"{key}={text}" for key, text in options.space.items()), *mine], loader)
    searched = dict(words.space)
    groups = _groups(compose([]))
    compared: dict[str, Sequence[str]] = {}
    if options.purpose == Purpose.compare:
        for key in [k for k in searched if k in groups]:
            one = searched.pop(key)
            assert isinstance(one, CategoricalDistribution)
            compared[key] = [str(choice) for choice in one.choices]
        if not compared:
            raise ConfigError("sweep: nothing to compare; name several of a group, such as optimizer=sgd,adamw")
    elif "experiment" in searched and "experiment" in groups:
        raise ConfigError("experiment: sets many keys at once, which is no parameter; compare several by sweep=compare")
    made = []
    for chosen in itertools.product(*compared.values()):
        name = ",".join(chosen)
        made.append(_arm(options, name, dict(zip(compared, chosen, strict=True)), words.fixed, searched, compose))
    return made


def study_name(
    options: Options, arguments: Sequence[str], choices: Mapping[str, Any], loader: ConfigLoader | None = None
) -> str:
    """The name of a sweep: what the user says, or what was chosen for the groups in `named_by`.

    Args:
        options: of the sweep.
        arguments: the words of the command line.
        choices: group to its word.
        loader: as for `arms`.
    """
    if options.study:
        if not re.fullmatch(r"\w[\w.+=-]*(/\w[\w.+=-]*)*", options.study) or ".." in options.study:
            raise ConfigError(f"sweep.study={options.study}: a name of letters, digits and any of . _ + - =")
        return options.study
    searched = space.read([text for text in arguments if not _belongs(text, options.node)], loader).space
    parts = []
    for group in options.named_by:
        lists = searched.get(group)
        word = choices.get(group)
        if isinstance(lists, CategoricalDistribution):
            parts.append("+".join(str(choice) for choice in lists.choices))
        elif word is not None:
            parts.append(str(word))
    return re.sub(r"[^\w.+=-]", "_", "-".join(parts)) or "sweep"


def _belongs(text: str, node: str | None) -> bool:
    key = text.lstrip("+~").split("=")[0]
    return node is not None and (key == node or key.startswith(f"{node}."))


def _groups(cfg: DictConfig) -> dict[str, Any]:
    return {str(k): v for k, v in cfg.hydra.runtime.choices.items() if not str(k).startswith("hydra/")}


def _arm(
    options: Options,
    name: str,
    chosen: Mapping[str, str],
    fixed: Sequence[str],
    searched: Space,
    compose: Compose,
) -> Arm:
    words = tuple(f"{key}={word}" for key, word in chosen.items())
    overrides = (*fixed, *words)
    full, derived = dict(searched), None
    cfg = compose(overrides)
    with applied(cfg) as task:
        if options.rate in full and (options.low, options.high) != (None, None):
            node = options.node or "hydra.sweeper"
            raise ConfigError(f"{node}.low, {node}.high: {options.rate} has a range of its own; give one or the other")
        if options.rate and options.rate not in full:
            derived = options.rate
            full = {derived: _range(options, searched, task), **full}
            overrides = tuple(text for text in overrides if text.lstrip("+").split("=")[0] != options.rate)
        config = _plain(task)
        choices = {k: str(v) for k, v in _groups(cfg).items() if isinstance(v, str) and "@" not in k}
    choices = {k: v for k, v in choices.items() if k not in (options.node, "experiment")}
    if not full:
        raise ConfigError("sweep: nothing to search; give a range, such as optimizer.lr='tag(log,interval(1e-5,1e-1))'")
    _check(options, overrides, full, compose)
    with applied(compose([f"{k}={v}" for k, v in choices.items()])) as task:
        departures = _departures(config, _plain(task))
    for key in [*_FREE, *full, *([options.node] if options.node else [])]:
        _remove(config, key.lstrip("+"))
        departures = {k: v for k, v in departures.items() if not f"{k}.".startswith(f"{key.lstrip('+')}.")}
    return Arm(name, words, overrides, full, derived, config, choices, departures)


def _range(options: Options, searched: Space, task: DictConfig) -> Any:
    assert options.rate is not None
    group = options.rate.split(".")[0]
    if group in searched:
        raise ConfigError(
            f"sweep: the range of {options.rate} follows from one {group}; take sweep=compare for several, or give "
            f"{options.rate}='tag(log,interval(1e-5,1e-1))'"
        )
    default = load(options.default_rate)(task) if options.default_rate else OmegaConf.select(task, options.rate)
    if not isinstance(default, (int, float)) or default <= 0:
        raise ConfigError(f"{options.rate}: has no default above 0 to search around, but {default}; set it")
    return space.decades(float(default), options.low, options.high, options.decades)


def _check(options: Options, overrides: Sequence[str], full: Space, compose: Compose) -> None:
    """Compose a few trials, so that what cannot work is refused before anything is made."""
    first = {key: _some(distribution)[0] for key, distribution in full.items()}
    tried = [first]
    for key, distribution in full.items():
        tried += [first | {key: value} for value in _some(distribution)[1:]]
    for values in tried[:_MOST_CHECKED]:
        with applied(compose(space.command_line(overrides, values))) as task:
            if options.check:
                load(options.check)(task)


def _some(distribution: Any) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]


@contextmanager
def applied(cfg: DictConfig) -> Iterator[DictConfig]:
    """The config without Hydra's node, while interpolations find that."""
    before = HydraConfig.instance().cfg
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = cfg.hydra.runtime.get("output_dir") or "."
    HydraConfig.instance().set_config(cfg)
    try:
        task = cfg.copy()
        with open_dict(task):
            del task["hydra"]
        yield task
    finally:
        HydraConfig.instance().cfg = before


def _plain(task: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(task, resolve=True, enum_to_str=True)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


def _remove(config: dict[str, Any], key: str) -> None:
    *parents, last = key.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(last, None)


def _departures(config: Any, base: Any, key: str = "") -> dict[str, Any]:
    if isinstance(config, dict) and isinstance(base, dict):
        found: dict[str, Any] = {}
        for name in [*config, *(name for name in base if name not in config)]:  # what is left out is null
            found |= _departures(config.get(name), base.get(name), f"{key}.{name}".lstrip("."))
        return found
    return {} if config == base else {key: config}
