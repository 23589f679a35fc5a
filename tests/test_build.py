"""From a config to objects: what is refused before, the fused step, and every optimizer with every schedule."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from stepsize import build
from stepsize.callbacks.objective import Objective
from stepsize.config import CONF
from stepsize.errors import ConfigError
from stepsize.lr_scheduler import ScheduledLR
from stepsize.param_groups import param_groups

Composed = Callable[..., DictConfig]
CPU = torch.device("cpu")
OPTIMIZER_WORDS = sorted({path.stem for path in (CONF / "optimizer").glob("*.yaml")} - {"custom"})
SCHEDULE_WORDS = sorted(path.stem for path in (CONF / "schedule").glob("*.yaml"))
STEPS = 3


class Unfused(SGD):
    """Takes the word `fused`, but has no such step."""

    def __init__(self, params: Any, lr: float = 0.1, fused: bool | None = None) -> None:
        if fused:
            raise RuntimeError("no fused step here")
        super().__init__(params, lr)


class Rateless(SGD):
    """Has no default learning rate."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)


class Ruled(Adam):
    """Has two rules for its parameters."""

    rules = ("matrix", "vector")


class Open(SGD):
    """Passes on whatever it is given."""

    def __init__(self, params: Any, **keywords: Any) -> None:
        super().__init__(params, **keywords)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes above, where `optimizer._target_=math.Class` finds them as in an installed library."""
    for cls in (Unfused, Rateless, Ruled, Open):
        monkeypatch.setattr(math, cls.__name__, cls, raising=False)


REFUSED = [
    (["model=gpt"], "model: GPT takes tokens, but Digits gives values"),
    (["data=text"], "model: MLP takes values, but Text gives tokens"),
    (["objective.metric=val/acc"], r"objective.metric=val/acc: never logged; did you mean val/accuracy\?"),
    (["objective.metric=train/loss"], "objective.metric=train/loss: never logged"),
    (["data=text", "model=gpt", "objective.metric=val/accuracy"], "never logged; .* val/bits_per_byte, val/loss"),
    (["task.monitor=val/acc"], r"task.monitor=val/acc: never logged; did you mean val/accuracy\?"),
    (["callbacks=early_stopping", "callbacks.early_stopping.monitor=loss"], "callbacks.early_stopping.monitor=loss"),
    (["optimizer=custom", "optimizer._target_=torch.optim.Muon"], "Muon takes matrices only, .* optimizer=adamw"),
    (["optimizer=custom", "optimizer._target_=torch.optim.Nothing"], "there is no 'Nothing' in torch.optim"),
    (["optimizer=custom", "optimizer._target_=nolibrary.Adam"], "no module 'nolibrary' is installed"),
    (["optimizer=custom", "optimizer._target_=torch.optim.Adam", "optimizer.bets=[0,0]"], r"did you mean betas\?"),
    (["optimizer=custom", "optimizer._target_=torch.optim.Adam", "optimizer.betas=0.9"], "takes 2 values, got 0.9"),
    (
        ["optimizer=custom", "optimizer._target_=math.Rateless"],
        "Rateless has no default learning rate; set optimizer.lr",
    ),
    (["optimizer=custom", "optimizer._target_=math.Rateless", "optimizer.lr=null"], "set optimizer.lr"),
    (["optimizer=lbfgs", "trainer.accumulate_grad_batches=2"], "LBFGS .* cannot accumulate batches; set"),
    (["optimizer=lbfgs", "trainer.precision=16-mixed"], "LBFGS .* 16-mixed cannot scale; set"),
    (["optimizer=lbfgs", "trainer.precision=16"], "LBFGS .* 16-mixed cannot scale; set"),
    (["optimizer=lbfgs", "param_groups.layer_decay=0.9"], "LBFGS has one group of parameters; drop"),
    (["optimizer=lbfgs", "param_groups.patterns=[{pattern: head}]"], "LBFGS has one group of parameters; drop"),
    (["optimizer.fused=true", "optimizer.foreach=true"], "fused=true and foreach=true exclude each other"),
    (["optimizer.fused=true", "optimizer.differentiable=true"], "fused=true and differentiable=true exclude"),
    (
        ["optimizer.fused=true", "trainer.precision=16-mixed", "trainer.gradient_clip_val=1"],
        "optimizer.fused=true: .* leave fused out",
    ),
    (["param_groups.patterns=[{pattern: head, rule: matrix}]"], "AdamW has no rule 'matrix'; There is nothing"),
    (
        ["optimizer=custom", "optimizer._target_=math.Ruled", "param_groups.patterns=[{pattern: head, rule: matrx}]"],
        r"Ruled has no rule 'matrx'; did you mean matrix\? There are: matrix, vector",
    ),
    (["param_groups.patterns=[{patern: head}]"], r"patterns\[0\].patern: there is no such key; did you mean pattern\?"),
    (["param_groups.patterns=[{pattern: '('}]"], r"pattern '\(' is no regular expression"),
    (["param_groups.layer_decay=0"], r"layer_decay must be in \(0, 1\], got 0.0"),
    (["trainer.max_epochs=-1"], "schedule: warmup_fraction=0.05 .* needs a finite one: set trainer.max_steps"),
    (["trainer.max_epochs=-1", "schedule=cosine"], "schedule=cosine needs a finite run .* take schedule=constant"),
    (["trainer.max_epochs=-1", "schedule=step"], "every_fraction=0.333333 .* or give schedule.every_steps"),
    (["schedule.warmup_steps=5", "schedule.warmup_fraction=0.1"], "give warmup_steps or warmup_fraction, not both"),
    (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches must be at least 1, got 0"),
    (["data.batch_size=0"], "data: batch_size must be at least 1, got 0"),
    (["resume=nowhere"], "resume=nowhere: there is no checkpoint nowhere"),
]

ALLOWED = [
    [],
    ["data=text", "model=gpt"],
    ["data=text", "model=gpt", "objective.metric=val/perplexity"],
    ["data=mnist1d", "model=convnet"],
    ["objective.metric=val/accuracy", "objective.mode=max"],
    ["optimizer=lbfgs", "trainer.precision=bf16-mixed"],
    ["optimizer=custom", "optimizer._target_=torch.optim.ASGD", "optimizer.lr=0.1"],
    ["optimizer=custom", "optimizer._target_=math.Open", "optimizer.lr=0.1", "optimizer.momentum=0.5"],
    ["optimizer=custom", "optimizer._target_=math.Ruled", "param_groups.patterns=[{pattern: head, rule: vector}]"],
    ["optimizer.fused=true", "trainer.precision=16-mixed"],
    ["optimizer.fused=true", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1"],
    ["trainer.max_epochs=-1", "schedule=constant"],
    ["trainer.max_epochs=-1", "schedule=inverse_sqrt", "schedule.warmup_steps=5"],
    ["trainer.max_epochs=-1", "schedule=step", "schedule.every_steps=5"],
    ["trainer.max_epochs=-1", "trainer.max_steps=5"],
    ["callbacks=minimal", "logger=none"],
]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("words", "reason"), REFUSED, ids=lambda value: " ".join(value) if type(value) is list else "")
def test_what_cannot_work_is_refused_with_the_reason(composed: Composed, words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build.check(composed(*words))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("words", ALLOWED, ids=" ".join)
def test_what_can_work_is_not_refused(composed: Composed, words: list[str]) -> None:
    build.check(composed(*words))


def test_an_open_signature_still_needs_a_learning_rate(composed: Composed, library: None) -> None:
    with pytest.raises(ConfigError, match="Open has no default learning rate"):
        build.check(composed("optimizer=custom", "optimizer._target_=math.Open"))


def test_a_check_leaves_the_random_numbers_alone(composed: Composed) -> None:
    cfg = composed()
    torch.manual_seed(0)
    build.check(cfg)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))


def test_a_run_is_resumed_from_its_folder(composed: Composed, tmp_path: Path) -> None:
    last = tmp_path / "old" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    assert build.checkpoint(composed(f"resume={tmp_path / 'old'}")) == last


def test_a_run_is_resumed_from_a_checkpoint(composed: Composed, tmp_path: Path) -> None:
    (tmp_path / "some.ckpt").touch()
    assert build.checkpoint(composed(f"resume={tmp_path / 'some.ckpt'}")) == tmp_path / "some.ckpt"


def test_a_folder_without_a_checkpoint_is_refused(composed: Composed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no checkpoint .*last\.ckpt"):
        build.checkpoint(composed(f"resume={tmp_path}"))


def test_a_run_starts_anew_unless_told(composed: Composed) -> None:
    assert build.checkpoint(composed()) is None


@pytest.mark.parametrize("word", ["sgd", "momentum", "nesterov", "adam", "adamw", "adagrad"])
def test_the_fused_step_is_the_default_where_the_device_has_it(composed: Composed, word: str) -> None:
    assert build.optimizer(composed(f"optimizer={word}"), CPU).keywords["fused"] is True


@pytest.mark.parametrize(
    "word", sorted({*OPTIMIZER_WORDS} - {"sgd", "momentum", "nesterov", "adam", "adamw", "adagrad"})
)
def test_an_optimizer_without_a_fused_step_is_not_asked_for_one(composed: Composed, word: str) -> None:
    assert build.optimizer(composed(f"optimizer={word}"), CPU).keywords.get("fused") is None


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer.foreach=true"],
        ["optimizer.differentiable=true"],
        ["trainer.precision=16-mixed", "trainer.gradient_clip_val=1"],
        ["trainer.precision=16", "trainer.gradient_clip_val=1"],
    ],
    ids=" ".join,
)
def test_the_step_is_not_fused_where_the_user_chose_what_excludes_it(composed: Composed, words: list[str]) -> None:
    assert build.optimizer(composed(*words), CPU).keywords["fused"] is None


@pytest.mark.parametrize(
    "words",
    [["optimizer.foreach=false"], ["trainer.precision=16-mixed"], ["trainer.gradient_clip_val=1"]],
    ids=" ".join,
)
def test_the_step_stays_fused_where_nothing_excludes_it(composed: Composed, words: list[str]) -> None:
    assert build.optimizer(composed(*words), CPU).keywords["fused"] is True


def test_a_refusal_of_the_fused_step_is_kept(composed: Composed) -> None:
    assert build.optimizer(composed("optimizer.fused=false"), CPU).keywords["fused"] is False


def test_a_fused_step_that_the_device_lacks_is_refused(composed: Composed, library: None) -> None:
    cfg = composed("optimizer=custom", "optimizer._target_=math.Unfused", "optimizer.fused=true")
    with pytest.raises(ConfigError, match=r"optimizer.fused=true: Unfused has no fused step on cpu; leave it out"):
        build.optimizer(cfg, CPU)


def test_a_step_that_is_not_fused_on_the_device_is_no_error_by_default(composed: Composed, library: None) -> None:
    cfg = composed("optimizer=custom", "optimizer._target_=math.Unfused")
    assert build.optimizer(cfg, CPU).keywords.get("fused") is None


def test_the_learning_rate_of_an_optimizer_is_known_even_where_no_one_typed_it(composed: Composed) -> None:
    cfg = composed("optimizer=custom", "optimizer._target_=torch.optim.ASGD")
    assert build.optimizer(cfg, CPU).keywords == {"lr": 0.01, "weight_decay": 0}


def test_convolutions_run_channels_last(composed: Composed) -> None:
    cfg = composed("model=convnet", "model.widths=[4,8]")
    network = build.task(cfg, build.data(cfg), build.optimizer(cfg, CPU)).network
    kernels = [p for p in network.parameters() if p.ndim == 4]
    assert [p.is_contiguous(memory_format=torch.channels_last) for p in kernels] == [True] * len(kernels) != []


@pytest.mark.parametrize("pattern", ["nothing_there", "^head$"])
def test_a_pattern_that_matches_nothing_is_refused_with_its_key(composed: Composed, pattern: str) -> None:
    cfg = composed(f"param_groups.patterns=[{{pattern: '{pattern}'}}]")
    with pytest.raises(
        ConfigError, match=r"param_groups: pattern .* matches no parameter; there are 4, such as layers"
    ):
        build.task(cfg, build.data(cfg), build.optimizer(cfg, CPU))


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("trainer.accelerator=gpuu", "trainer: "),
        ("trainer.precision=17", "trainer: "),
        ("trainer.enable_checkpointing=false", "trainer: .*ModelCheckpoint"),
        ("trainer.enable_progress_bar=false", "trainer: .*enable_progress_bar"),
    ],
)
def test_what_lightning_refuses_is_said_of_the_trainer(
    composed: Composed, tmp_path: Path, word: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        build.trainer(composed("trainer=cpu", word), tmp_path, Objective("val/loss", "min"))


def test_lightning_adds_no_callback_of_its_own(composed: Composed, tmp_path: Path) -> None:
    cfg = composed("trainer=cpu", "callbacks=minimal", "logger=none")
    made = build.trainer(cfg, tmp_path, Objective("val/loss", "min")).callbacks
    assert [c for c in made if isinstance(c, (ModelCheckpoint, ProgressBar))] == []


@cache
def _composed_once(word: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [word, "objective.metric=val/loss"])


@pytest.fixture
def network() -> Iterator[nn.Module]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other longer than so small a network computes
    torch.manual_seed(0)
    yield nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("schedule_word", SCHEDULE_WORDS)
@pytest.mark.parametrize("optimizer_word", OPTIMIZER_WORDS)
def test_every_optimizer_follows_every_schedule(network: nn.Module, optimizer_word: str, schedule_word: str) -> None:
    make = build.optimizer(_composed_once(f"optimizer={optimizer_word}"), CPU)
    multiplier = build.schedule(_composed_once(f"schedule={schedule_word}"))
    peak = make.keywords["lr"]
    made: Optimizer = make(param_groups(network, peak, make.keywords.get("weight_decay")))
    scheduler = ScheduledLR(made, multiplier, STEPS)
    x, y = torch.randn(8, 3), torch.randint(2, (8,))
    before = [p.detach().clone() for p in network.parameters()]
    losses, rates = [], []

    def closure() -> Tensor:
        made.zero_grad()
        loss = F.cross_entropy(network(x), y)
        loss.backward()
        return loss

    for _ in range(STEPS):
        rates.append([group["lr"] for group in made.param_groups])
        losses.append(made.step(closure).item())
        scheduler.step()

    assert rates == [[peak * multiplier(step, STEPS)] * len(made.param_groups) for step in range(STEPS)]
    assert all(map(math.isfinite, losses))
    assert not any(torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize("schedule_word", SCHEDULE_WORDS)
def test_every_schedule_of_the_yamls_has_a_learning_rate_above_zero_at_every_step(schedule_word: str) -> None:
    multiplier = build.schedule(_composed_once(f"schedule={schedule_word}"))
    assert min(multiplier(step, 100) for step in range(100)) > 0
