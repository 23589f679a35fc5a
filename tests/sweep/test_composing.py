"""A job's config is the one that Hydra composes, whatever was kept."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from stepsize.config import CONF, register
from stepsize.sweep.composing import Composer

GROUPS = ["optimizer=lion", "schedule=warmup_cosine", "data=digits"]
PLACE = ["hydra.sweep.dir='/x/y z'", "hydra.sweep.subdir='3'"]


@pytest.fixture
def loader() -> Iterator[Any]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def multirun(loader: Any, *words: str) -> DictConfig:
    found: DictConfig = loader.load_configuration("train", list(words), RunMode.MULTIRUN)
    return found


def plain(config: DictConfig) -> tuple[Any, Any]:
    """Content, and which nodes are closed or read-only."""
    flags = {}

    def walk(node: Any, path: str) -> None:
        flags[path] = (OmegaConf.is_struct(node), OmegaConf.is_readonly(node), OmegaConf.get_type(node))
        for key in node if isinstance(node, DictConfig) else range(len(node)):
            child = node._get_node(key)
            empty = not OmegaConf.is_config(child) or child._is_none() or child._is_missing()
            if not empty and not child._is_interpolation():
                walk(child, f"{path}.{key}")

    walk(config, "")
    return OmegaConf.to_container(config), flags


@pytest.mark.parametrize(
    "words",
    [
        [*GROUPS, "optimizer.lr=0.01", "trainer.max_epochs=3"],
        ["optimizer.lr=0.01", *GROUPS, "seed=3", "name=other", "+extra=1", "model.dropout=0.5"],
        [*GROUPS, "optimizer.betas=[0.8,0.9]", "hydra.run.dir='/a'", "hydra.job.chdir=true"],
        [*GROUPS, "++optimizer.lr=0.5", "~hydra.job_logging.loggers"],
        [*GROUPS, "experiment=digits_mlp", "optimizer.lr=0.1"],
        [*GROUPS],
        [],
    ],
    ids=" ".join,
)
def test_what_is_kept_makes_no_difference(loader: Any, words: Sequence[str]) -> None:
    config = multirun(loader, *GROUPS, "hydra.job_logging.root.level=WARNING", "+hydra.job.env_set.A=b")
    composer = Composer(loader, config)
    composer.keep(words)
    assert composer._kept
    expected = loader.load_sweep_config(config, [*words, *PLACE])
    assert plain(composer.compose([*words, *PLACE])) == plain(expected)
    assert not composer._kept  # it was used
    assert plain(composer.compose([*words, *PLACE])) == plain(expected)


def test_the_kept_one_is_used_only_where_the_same_is_chosen(loader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = multirun(loader)
    composer = Composer(loader, config)
    composer.keep(["optimizer=lion", "optimizer.lr=1"])
    composed: list[Sequence[str]] = []
    load = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda c, words: composed.append(words) or load(c, words))
    assert composer.compose(["optimizer=sgd", "optimizer.lr=2"]).optimizer.lr == 2
    assert composed == [["optimizer=sgd", "optimizer.lr=2"]]
    assert composer.compose(["optimizer=lion", "optimizer.lr=3"]).optimizer.lr == 3
    assert len(composed) == 1
    assert composer.compose(["optimizer=lion", "optimizer.lr=4"]).optimizer.lr == 4
    assert len(composed) == 2


@pytest.mark.parametrize(
    "word",
    ["hydra.searchpath=[]", "hydra.job.env_copy=[PATH]", "hydra.job.name=x", "+hydra.runtime.choices.a=b"],
)
def test_words_that_decide_about_more_than_a_value_are_left_to_hydra(loader: Any, word: str) -> None:
    config = multirun(loader)
    composer = Composer(loader, config)
    composer.keep([word])
    assert not composer._kept
    assert plain(composer.compose([word])) == plain(loader.load_sweep_config(config, [word]))


def test_groups_that_only_a_search_path_knows_are_found(loader: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("x: 1\n")
    config = multirun(loader, f"hydra.searchpath=[file://{tmp_path}]")
    composer = Composer(loader, config)
    words = ["model=mine", "seed=3"]
    composer.keep(words)
    assert not composer._kept
    assert plain(composer.compose(words)) == plain(loader.load_sweep_config(config, words))
    assert composer.compose(words).model == {"x": 1}


@pytest.mark.parametrize("wrong", [["optimizer.weigth=1"], ["optimizer=admaw"], ["trainer.max_epochs=many"], ["x y"]])
def test_a_wrong_word_is_answered_as_hydra_answers_it(loader: Any, wrong: list[str]) -> None:
    config = multirun(loader)
    composer = Composer(loader, config)
    composer.keep([])
    composer.keep(wrong)
    answers = []
    for compose in (composer.compose, lambda words: loader.load_sweep_config(config, words)):
        with pytest.raises(HydraException) as caught:
            compose(wrong)
        answers.append((type(caught.value), str(caught.value)))
    assert answers[0] == answers[1]
