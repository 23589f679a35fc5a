"""What may be configured, and with which types: schemas made from signatures and handed to Hydra's ConfigStore.

A YAML of conf/ starts with `defaults: [schema/NAME@_here_, _self_]` and holds only what departs from the signature.
Nothing is imported to make a schema, so a misspelt word is answered before torch has been loaded.
"""

import ast
import secrets
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, make_dataclass
from enum import StrEnum
from inspect import Parameter
from pathlib import Path
from typing import Any, Optional, Union

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from stepsize.data import DATA
from stepsize.metrics import better
from stepsize.models import MODELS
from stepsize.optimizers import OPTIMIZERS
from stepsize.resume.run_folder import run_folder
from stepsize.schedules import SCHEDULES
from stepsize.signature import parameters
from stepsize.sweep.options import Options

LOGGERS = {
    "tensorboard": "stepsize.loggers.tensorboard.TensorBoard",
    "csv": "stepsize.loggers.table.Table",
}
CALLBACKS = {
    "checkpoint": "stepsize.callbacks.checkpoint.Checkpoint",
    "early_stopping": "lightning.pytorch.callbacks.EarlyStopping",
    "monitor": "stepsize.callbacks.monitor.Monitor",
    "progress": "stepsize.callbacks.progress.Progress",
}
CONF = Path(__file__).parents[2] / "conf"
WARMUP = "stepsize.schedules.warmup.warmup"


class Mode(StrEnum):
    """Which direction is better."""

    min = "min"
    max = "max"


class Work(StrEnum):
    """What a command does with the choices: train a network, or test one that is trained."""

    train = "train"
    test = "test"


@dataclass
class Objective:
    """The number a run returns: the best value of `metric` over its validations."""

    metric: str = "val/loss"
    mode: Mode = Mode.min


@dataclass
class Train:
    """The keys of conf/train.yaml; each group's own keys have the schema of what was chosen."""

    mode: Work = Work.train
    name: str = MISSING
    seed: int = 0
    objective: Objective = field(default_factory=Objective)
    compile: bool = False
    resume: str | None = None
    run_dir: str = MISSING
    task: Any = None
    param_groups: Any = None
    optimizer: Any = None
    schedule: Any = None
    model: Any = None
    data: Any = None
    trainer: Any = None
    logger: Any = None
    callbacks: Any = None
    sweep: Any = None


def register() -> None:
    """Put every schema and the resolver of unique names where Hydra finds them."""
    store = ConfigStore.instance()
    # Hydra copies the whole store whenever it lists a group, 160 times for one --help, and never changes it.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    store.store(name="schema", node=Train)
    for group, table, supplied, more in _groups():
        for name, target in table.items():
            keys = [*parameters(target), *more]
            store.store(group=f"{group}/schema", name=name, node=schema(name, target, keys, supplied))
    store.store(group="sweep/schema", name="sweep", node=Options)
    # Any other optimizer: its keys are compared with its signature once it has been imported.
    anything = OmegaConf.create({"_target_": MISSING, "_partial_": True}, flags={"struct": False})
    store.store(group="optimizer/schema", name="custom", node=anything)
    # One value a composed config: the run's folder must not change each time the interpolation is read.
    OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(3), use_cache=True, replace=True)
    # A default that gives way to its alternative: ${unless:${.warmup_steps},0.05} is null once warmup_steps is set.
    # Where not null but another value says that it is not set, that is the third: ${unless:${.max_steps},30,-1}.
    OmegaConf.register_new_resolver("unless", _unless, replace=True)
    OmegaConf.register_new_resolver("better", better, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("choices", choices, replace=True)


def _unless(other: Any, value: Any, unset: Any = None) -> Any:
    return value if other == unset else None


def choices(group: str) -> str:
    """A group's words as lines of `--help`: each YAML in conf/<group>."""
    words = " ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
    return textwrap.fill(words, 118, initial_indent=f"  {group + '=':<13}", subsequent_indent=" " * 15)


def _groups() -> Iterable[tuple[str, Mapping[str, str], set[str], list[Parameter]]]:
    """(group, its table, arguments the recipe supplies, keys that another callable takes)."""
    yield "optimizer", OPTIMIZERS, {"params", "horizon"}, []
    yield "schedule", SCHEDULES, set(), [p for p in parameters(WARMUP) if p.name != "schedule"]
    yield "model", MODELS, {"input_shape", "num_classes"}, []
    yield "data", DATA, set(), []
    yield "trainer", {"trainer": "lightning.pytorch.Trainer"}, {"logger", "callbacks", "default_root_dir"}, []
    yield "logger", LOGGERS, {"save_dir"}, []
    yield "callbacks", CALLBACKS, {"dirpath", "config", "words", "objective"}, []
    yield "task", {"task": "stepsize.task.Task"}, {"network", "optimizer", "schedule", "groups", "metrics"}, []
    grouping = {"param_groups": "stepsize.param_groups.param_groups"}
    yield "param_groups", grouping, {"model", "lr", "weight_decay", "rules"}, []


def schema(name: str, target: str, keys: Iterable[Parameter], supplied: set[str]) -> type:
    """A dataclass with a typed field for each parameter.

    Args:
        name: word the user types; names the schema in Hydra's messages.
        target: dotted path, the `_target_`.
        keys: the parameters, annotations as source text.
        supplied: names that the recipe fills in when it builds; a schema that has any makes a partial.
    """
    fields: list[Any] = [("_target_", str, field(default=target))]
    if any(p.name in supplied for p in keys):
        fields.append(("_partial_", bool, field(default=True)))
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    fields += [(p.name, kind(p), _default(p)) for p in keys if p.name not in supplied and p.kind in named]
    return make_dataclass(name, fields)


def kind(p: Parameter) -> Any:
    """The type that OmegaConf is to check: what the annotation says of numbers, words and lists; else anything."""
    names = _names(ast.parse(p.annotation, mode="eval").body) if p.annotation else {type(p.default).__name__}
    optional = "None" in names or p.default is None
    names -= {"None", "Tensor", "NoneType"}
    number = isinstance(p.default, (int, float)) and not isinstance(p.default, bool)
    known: Any
    match sorted(names):
        case ["bool"] | ["int"] | ["float"] | ["str"]:
            known = {"bool": bool, "int": int, "float": float, "str": str}[names.pop()]
        case ["float", "int"]:
            known = Union[int, float]  # noqa: UP007 - OmegaConf 2.3 reads typing's form alone
        case ["list[float]"] | ["tuple[float]"] | ["Sequence[float]"]:
            known = list[float]
        case ["list[int]"] | ["tuple[int]"] | ["Sequence[int]"]:
            known = list[int]
        case ["list[str]"] | ["tuple[str]"] | ["Sequence[str]"]:
            known = list[str]
        case ["Sequence[Mapping[str, Any]]"]:
            known = list[dict[str, Any]]
        case ["dict[str, Any]"]:
            known = dict[str, Any]
        case _:
            known = Any
    if not p.annotation and number:
        known = Any  # an unannotated 0 may well stand for 0.0
    return Optional[known] if optional and known is not Any else known  # noqa: UP045 - as above


def _names(node: ast.expr) -> set[str]:
    """The alternatives of an annotation: {"float", "None"} of `float | None`, {"tuple[float]"} of a pair of floats."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _names(left) | _names(right)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _names(inner) | {"None"}
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=inner)):
            return set().union(*map(_names, inner))
        case ast.Subscript(value=ast.Name(id="list" | "tuple" | "Sequence" as container), slice=inner):
            items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            kinds = set().union(*(_names(i) for i in items if not _is_ellipsis(i))) - {"Tensor"}
            return {f"{container}[{'|'.join(sorted(kinds))}]"}
        case ast.Constant(value=str(text)):
            return _names(ast.parse(text, mode="eval").body)
        case _:
            return {ast.unparse(node).removeprefix("torch.")}


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _default(p: Parameter) -> Any:
    if p.default is Parameter.empty:
        return field(default=MISSING)
    value = p.default
    if kind(p) in (dict[str, Any], Optional[dict[str, Any]]):  # noqa: UP045
        return field(default_factory=lambda: OmegaConf.create(value or {}, flags={"struct": False}))  # any key is right
    if kind(p) in (float, Optional[float]) and value is not None:  # noqa: UP045
        value = float(value)
    if isinstance(value, (list, tuple)):
        return field(default_factory=lambda: list(value))
    if isinstance(value, dict):
        return field(default_factory=lambda: dict(value))
    return field(default=value)
