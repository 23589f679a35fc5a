"""What is refused before anything is loaded or built, and what is not."""

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from stepsize.check import check
from stepsize.errors import ConfigError

Composed = Callable[..., DictConfig]

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
    (["callbacks.monitor.non_finite=skp"], r"callbacks.monitor: .* did you mean skip\? There are: skip, stop"),
    (["callbacks.monitor.max_skipped_in_row=0"], "callbacks.monitor: max_skipped_in_row must be at least 1, got 0"),
    (["callbacks.monitor.non_finite=skip", "optimizer=sam"], "SAM moves the weights between .*; leave it at stop"),
    (["callbacks.monitor.non_finite=skip", "optimizer=lbfgs"], "LBFGS moves the weights between .*; leave it at stop"),
    (["callbacks.monitor.non_finite=skip", "trainer.precision=16-mixed"], "16-mixed leaves out steps by itself"),
    (["optimizer=sam", "trainer.accumulate_grad_batches=2"], "SAM .* cannot accumulate batches; set"),
    (["optimizer=sam", "trainer.precision=16-mixed"], "SAM .* 16-mixed cannot scale; set"),
    (["optimizer=sam", "optimizer.base=lbfgs"], "optimizer.base=lbfgs: it evaluates a batch several times itself"),
    (["optimizer=sam", "optimizer.base=admaw"], r"did you mean adamw\?"),
    (["optimizer=lbfgs", "param_groups.layer_decay=0.9"], "LBFGS has one group of parameters; drop"),
    (["optimizer=lbfgs", "param_groups.patterns=[{pattern: head}]"], "LBFGS has one group of parameters; drop"),
    (["optimizer=lamb", "trainer=fsdp"], "LAMB takes norms or products of whole parameters, which FSDP cuts"),
    (["optimizer=prodigy", "trainer.strategy=fsdp"], "Prodigy takes norms or .*; take trainer=ddp"),
    (["optimizer=sam", "trainer=fsdp"], "SAM takes norms or"),
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
    (
        ["optimizer=muon", "param_groups.patterns=[{pattern: head, rule: adam}]"],
        r"Muon has no rule 'adam'; did you mean adamw\?",
    ),
    (["optimizer=muon", "optimizer.ns_coefficients=quintc"], r"did you mean quintic\?"),
    (["param_groups.patterns=[{patern: head}]"], r"patterns\[0\].patern: there is no such key; did you mean pattern\?"),
    (["param_groups.patterns=[{pattern: '('}]"], r"pattern '\(' is no regular expression"),
    (["param_groups.layer_decay=0"], r"layer_decay must be in \(0, 1\], got 0.0"),
    (["trainer.max_epochs=-1"], "schedule: warmup_fraction=0.05 .* needs a finite one: set trainer.max_steps"),
    (["trainer.max_epochs=-1", "schedule=cosine"], "schedule=cosine needs a finite run .* take schedule=constant"),
    (["trainer.max_epochs=-1", "schedule=step"], "every_fraction=0.333333 .* or give schedule.every_steps"),
    (["schedule.warmup_steps=5", "schedule.warmup_fraction=0.1"], "give warmup_steps or warmup_fraction, not both"),
    (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches must be at least 1, got 0"),
    (["data.batch_size=0"], "data: batch_size must be at least 1, got 0"),
    (["objective.metric=val/accuracy", "objective.mode=min"], "objective.mode=min: for val/accuracy better is max"),
    (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val must be at least 0, got -1"),
    (["trainer.max_epochs=0"], "must be at least 1, or -1 for no limit, got 0"),
    (["trainer.limit_val_batches=0"], "the objective is measured in validation"),
    (["trainer.strategy=ddp_spawn"], "take trainer=ddp"),
    (["seed=-1"], "seed must be at least 0, got -1"),
    (["resume=nowhere"], "resume=nowhere: there is no such folder or checkpoint"),
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
    ["optimizer=muon"],
    ["callbacks.progress=null"],
    ["optimizer=lion", "trainer=fsdp"],
    ["optimizer=sam", "optimizer.base=muon", "param_groups.patterns=[{pattern: head, rule: adamw}]"],
    ["optimizer=sam", "optimizer.base=lion", "trainer.precision=bf16-mixed"],
    ["optimizer=muon", "param_groups.patterns=[{pattern: head.weight, rule: muon}]"],
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
        check(composed(*words))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("words", ALLOWED, ids=" ".join)
def test_what_can_work_is_not_refused(composed: Composed, words: list[str]) -> None:
    check(composed(*words))


def test_an_open_signature_still_needs_a_learning_rate(composed: Composed, library: None) -> None:
    with pytest.raises(ConfigError, match="Open has no default learning rate"):
        check(composed("optimizer=custom", "optimizer._target_=math.Open"))


def test_a_check_leaves_the_random_numbers_alone(composed: Composed) -> None:
    cfg = composed()
    torch.manual_seed(0)
    check(cfg)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))


def test_the_direction_follows_from_the_metric(composed: Composed) -> None:
    assert composed("objective.metric=val/accuracy").objective.mode == "max"
    assert composed("objective.metric=val/loss").objective.mode == "min"
