"""What may be configured: schemas with types from signatures, every YAML of conf/, and the resolvers in it."""

import subprocess
import sys
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Any, Optional, Union

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ValidationError

from stepsize import build
from stepsize.config import CALLBACKS, CONF, LOGGERS, kind, schema
from stepsize.data import DATA
from stepsize.models import MODELS
from stepsize.optimizers import OPTIMIZERS
from stepsize.schedules import SCHEDULES

Composed = Callable[..., DictConfig]

WORDS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("hydra", "experiment")
)
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
GROUPS = sorted({word.split("=")[0] for word in WORDS})
ADAMS = sorted(word for word in OPTIMIZERS if word in ("adam", "adamw", "nadam", "radam", "adamax"))


def parameter(annotation: str, default: Any = Parameter.empty) -> Parameter:
    return Parameter("x", Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


@pytest.mark.parametrize(
    ("annotation", "default", "expected"),
    [
        ("float", 0.5, float),
        ("float", 1, float),
        ("int", 1, int),
        ("bool", False, bool),
        ("str", "min", str),
        ("float | None", None, Optional[float]),  # noqa: UP045 - OmegaConf 2.3 reads typing's form alone
        ("Optional[bool]", None, Optional[bool]),  # noqa: UP045
        ("'int | None'", None, Optional[int]),  # noqa: UP045
        ("int", None, Optional[int]),  # noqa: UP045
        ("Union[int, float]", 0.0, Union[int, float]),  # noqa: UP007
        ("Optional[Union[int, float]]", None, Optional[Union[int, float]]),  # noqa: UP007, UP045
        ("float | Tensor", 1e-3, float),
        ("Union[float, torch.Tensor]", 1e-3, float),
        ("tuple[float, float]", (0.9, 0.999), list[float]),
        ("tuple[Union[float, Tensor], Union[float, Tensor]]", (0.9, 0.999), list[float]),
        ("tuple[int, ...]", (1,), list[int]),
        ("list[int] | None", None, Optional[list[int]]),  # noqa: UP045
        ("Sequence[str]", ("accuracy",), list[str]),
        ("Sequence[Mapping[str, Any]]", (), list[dict[str, Any]]),
        ("tuple[float | None, float]", (None, 1e-3), Any),
        ("str | int", "auto", Any),
        ("Literal['min', 'max']", "min", Any),
        ("Strategy", None, Any),
        ("", 0, Any),
        ("", True, bool),
        ("", "auto", str),
        ("", None, Any),
        ("", Parameter.empty, Any),
    ],
)
def test_an_annotation_becomes_a_type_that_is_checked(annotation: str, default: Any, expected: Any) -> None:
    assert kind(parameter(annotation, default)) == expected


def test_a_schema_leaves_out_what_the_recipe_supplies_and_then_makes_a_partial() -> None:
    made = OmegaConf.structured(schema("w", "a.B", [parameter("int", 1), parameter("int").replace(name="y")], {"y"}))
    assert OmegaConf.to_container(made) == {"_target_": "a.B", "_partial_": True, "x": 1}


def test_a_schema_with_nothing_supplied_makes_the_object() -> None:
    assert "_partial_" not in OmegaConf.structured(schema("w", "a.B", [parameter("int", 1)], {"y"}))


def test_a_parameter_without_default_must_be_given() -> None:
    assert OmegaConf.is_missing(OmegaConf.structured(schema("w", "a.B", [parameter("int")], set())), "x")


def test_catch_alls_of_a_signature_are_no_keys() -> None:
    catch_all = [Parameter("args", Parameter.VAR_POSITIONAL), Parameter("more", Parameter.VAR_KEYWORD)]
    assert list(OmegaConf.structured(schema("w", "a.B", catch_all, set()))) == ["_target_"]


def test_a_whole_default_of_a_float_is_a_float() -> None:
    made = OmegaConf.structured(schema("w", "a.B", [parameter("float", 1)], set()))
    assert isinstance(made.x, float)


def test_a_default_list_is_not_shared_between_configs() -> None:
    made = schema("w", "a.B", [parameter("tuple[int, ...]", (1,))], set())
    OmegaConf.structured(made).x.append(2)
    assert OmegaConf.structured(made).x == [1]


@pytest.mark.parametrize(
    "word",
    [
        "optimizer.lr=fast",
        "optimizer.lr=true",
        "optimizer.lr=null",
        "optimizer.betas=[a,b]",
        "optimizer.betas=0.9",
        "optimizer.amsgrad=maybe",
        "optimizer.fused=perhaps",
        "schedule.warmup_steps=ten",
        "schedule.warmup_steps=1.5",
        "schedule.warmup_fraction=some",
        "model.widths=[wide]",
        "model.widths=[1.5]",
        "data.batch_size=many",
        "data.batch_size=1.5",
        "trainer.limit_train_batches=few",
        "param_groups.patterns=head",
        "param_groups.patterns=[head]",
        "seed=one",
        "seed=null",
        "compile=maybe",
        "objective.mode=mni",
    ],
)
def test_a_value_of_the_wrong_type_is_refused(composed: Composed, word: str) -> None:
    with pytest.raises(ConfigCompositionException) as refused:
        composed(word)
    assert isinstance(refused.value.__cause__, ValidationError)


@pytest.mark.parametrize(
    ("word", "key", "expected"),
    [
        ("optimizer.lr=1", "optimizer.lr", 1.0),
        ("optimizer.lr=1e-3", "optimizer.lr", 0.001),
        ("optimizer.betas=[0,0.5]", "optimizer.betas", [0.0, 0.5]),
        ("optimizer.fused=null", "optimizer.fused", None),
        ("schedule.warmup_steps=null", "schedule.warmup_steps", None),
        ("trainer.limit_train_batches=3", "trainer.limit_train_batches", 3),
        ("trainer.limit_train_batches=0.5", "trainer.limit_train_batches", 0.5),
        ("model.widths=[]", "model.widths", []),
    ],
)
def test_a_value_of_the_right_type_arrives(composed: Composed, word: str, key: str, expected: object) -> None:
    found = OmegaConf.select(composed(word), key)
    assert (found, type(found) is type(expected) or OmegaConf.is_list(found)) == (expected, True)


@pytest.mark.parametrize("word", ADAMS)
def test_betas_reach_the_optimizer_as_a_plain_list(composed: Composed, word: str) -> None:
    assert type(build.optimizer(composed(f"optimizer={word}"), None).keywords["betas"]) is list


@pytest.mark.parametrize("word", WORDS)
def test_every_yaml_composes_with_every_value_resolved(composed: Composed, word: str) -> None:
    OmegaConf.to_container(composed(word), resolve=True)


@pytest.mark.parametrize("word", EXPERIMENTS)
def test_every_experiment_composes(composed: Composed, word: str) -> None:
    OmegaConf.to_container(composed(f"experiment={word}"), resolve=True)


@pytest.mark.parametrize(
    ("group", "table"), [("schedule", SCHEDULES), ("model", MODELS), ("data", DATA)], ids=["schedule", "model", "data"]
)
def test_every_entry_of_a_table_has_a_yaml_of_its_name(group: str, table: dict[str, str]) -> None:
    assert set(table) <= {path.stem for path in (CONF / group).glob("*.yaml")}


@pytest.mark.parametrize("group", ["optimizer", "schedule", "model", "data", "logger", "callbacks"])
def test_every_schema_that_a_yaml_names_is_in_the_table(group: str) -> None:
    tables = {
        "optimizer": {*OPTIMIZERS, "custom"}, "schedule": set(SCHEDULES), "model": set(MODELS), "data": set(DATA),
        "logger": set(LOGGERS), "callbacks": set(CALLBACKS),
    }  # fmt: skip
    text = "\n".join(path.read_text() for path in (CONF / group).glob("*.yaml"))
    named = {part.split("@")[0] for part in text.split("schema/")[1:]}
    assert named <= tables[group]


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_yaml_begins_with_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_values_of_the_yamls_differ_from_the_defaults_of_the_signatures(composed: Composed) -> None:
    assert (composed("optimizer=sgd").optimizer.lr, composed("optimizer=adamw").optimizer.lr) == (0.1, 0.001)


@pytest.mark.parametrize("schedule", ["warmup_cosine", "warmup_linear", "warmup_stable_decay"])
def test_a_warmup_in_steps_replaces_the_default_fraction(composed: Composed, schedule: str) -> None:
    cfg = composed(f"schedule={schedule}", "schedule.warmup_steps=10")
    multiplier = build.schedule(cfg)
    assert [multiplier(step, 1000) for step in (0, 9)] == pytest.approx([0.1, 1.0])


def test_a_length_in_steps_replaces_the_default_number_of_epochs(composed: Composed) -> None:
    cfg = composed("trainer.max_steps=7")
    assert (cfg.trainer.max_steps, cfg.trainer.max_epochs) == (7, None)


def test_the_default_number_of_epochs_holds_where_no_steps_are_given(composed: Composed) -> None:
    assert composed().trainer.max_epochs == 30


@pytest.mark.parametrize("schedule", ["warmup_cosine", "warmup_linear", "warmup_stable_decay"])
def test_the_default_warmup_is_a_twentieth_of_the_run(composed: Composed, schedule: str) -> None:
    multiplier = build.schedule(composed(f"schedule={schedule}"))
    assert [multiplier(step, 1000) for step in (0, 48, 49)] == pytest.approx([1 / 50, 49 / 50, 1.0])


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_warmup_works_before_every_schedule(composed: Composed, schedule: str) -> None:
    warm = build.schedule(composed(f"schedule={schedule}", "schedule.warmup_steps=4"))
    cold = build.schedule(composed(f"schedule={schedule}", "schedule.warmup_steps=0", "schedule.warmup_fraction=null"))
    assert [warm(step, 104) for step in (0, 3, 54)] == pytest.approx([cold(0, 100) / 4, cold(0, 100), cold(50, 100)])


def test_the_plateau_follows_the_objective_s_direction(composed: Composed) -> None:
    cfg = composed("schedule=plateau", "objective.mode=max", "objective.metric=val/accuracy")
    assert build.plain(cfg.schedule)["mode"] == "max"


def test_the_unique_part_of_a_folder_s_name_is_constant_in_a_config() -> None:
    cfg = OmegaConf.create({"a": "${unique:}", "b": "${unique:}"})
    assert (cfg.a, cfg.a) == (cfg.b, cfg.b)


def test_two_runs_of_the_same_second_have_different_folders() -> None:
    now = "2026-01-01_00-00-00-${unique:}"
    assert OmegaConf.create({"a": now}).a != OmegaConf.create({"a": now}).a


def test_the_unique_part_differs_between_processes() -> None:
    code = "import random, sys; random.seed(0); from stepsize.config import register; register()\n"
    code += "from omegaconf import OmegaConf; print(OmegaConf.create({'a': '${unique:}'}).a)"
    printed = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)]
    assert len({*printed}) == 2


def test_the_folder_of_a_run_is_made_of_its_choices(composed: Composed) -> None:
    cfg = composed("data=mnist1d", "model=convnet")
    assert cfg.name == "mnist1d_convnet"
