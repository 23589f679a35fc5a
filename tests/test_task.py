import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from stepsize.errors import ConfigError
from stepsize.param_groups import param_groups
from stepsize.schedules.constant import constant
from stepsize.schedules.linear import linear
from stepsize.task import Task

Batch = tuple[Tensor, Tensor]


class Stream:
    """Batches whose number is not known."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class Batches(Stream):
    """Batches whose number is known."""

    def __len__(self) -> int:
        return len(self.batches)


class Data(L.LightningDataModule):
    """Trains on what it is given, and validates on one batch."""

    def __init__(self, batches: Stream) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> Stream:
        return self.batches

    def val_dataloader(self) -> Stream:
        return Batches(self.batches.batches[:1])


def task(network: nn.Module | None = None, metrics: Sequence[str] = ("accuracy",), **keywords: Any) -> Task:
    optimizer = keywords.pop("optimizer", partial(torch.optim.SGD, lr=0.1))
    network = network or nn.Identity()
    groups = param_groups(network, optimizer.keywords["lr"], None) if list(network.parameters()) else []
    return Task(network, optimizer, keywords.pop("schedule", linear()), groups, metrics, **keywords)


def trainer(**keywords: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return L.Trainer(accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **quiet, **keywords)


def examples(number: int, size: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 4, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(number)
    ]


def horizon(batches: Stream, **keywords: Any) -> int | None:
    made = trainer(**keywords)
    made.fit(task(nn.Linear(4, 3), schedule=constant()), Data(batches))
    return made.lr_scheduler_configs[0].scheduler.horizon


# Logits whose softmax is (1/2, 1/4, 1/4): the classes cost 1, 2 and 2 bits.
BITS = torch.tensor([0.5, 0.25, 0.25]).log()


def test_training_spreads_the_target_by_the_label_smoothing() -> None:
    smoothed = task(label_smoothing=0.3).training_step((BITS[None], torch.tensor([0])), 0)
    assert float(smoothed) == pytest.approx((0.7 * 1 + 0.3 * 5 / 3) * math.log(2), rel=1e-6)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_the_loss_that_is_compared_between_runs_is_not_smoothed(stage: str) -> None:
    batches = Batches([(BITS[None], torch.tensor([0]))])
    measure = {"val": L.Trainer.validate, "test": L.Trainer.test}[stage]
    said = measure(trainer(), task(label_smoothing=0.3), batches, verbose=False)[0]
    assert said[f"{stage}/loss"] == pytest.approx(math.log(2), rel=1e-6)


def test_metrics_weigh_each_example_alike_over_uneven_and_empty_batches() -> None:
    batches = [(BITS.expand(len(y), 3), torch.tensor(y, dtype=torch.long)) for y in ([0, 1, 0, 2], [1], [])]
    said = trainer().validate(task(), Batches(batches), verbose=False)[0]
    assert said["val/loss"] == pytest.approx(8 / 5 * math.log(2), rel=1e-6)
    assert said["val/accuracy"] == pytest.approx(2 / 5, rel=1e-6)


def test_the_totals_of_one_pass_do_not_enter_the_next() -> None:
    measured, runner = task(), trainer()
    runner.validate(measured, Batches([(BITS[None], torch.tensor([1]))]), verbose=False)
    said = runner.validate(measured, Batches([(BITS[None], torch.tensor([0]))]), verbose=False)[0]
    assert said["val/accuracy"] == 1


def test_a_language_model_is_measured_per_token() -> None:
    y = torch.tensor([[0, 1, 2], [0, 0, 0]])
    # two windows of three tokens, then one window: 8 bits over 6 tokens, 6 bits over 3
    batches = Batches([(BITS.expand(2, 3, 3), y), (BITS.expand(1, 3, 3), torch.tensor([[1, 1, 2]]))])
    language = task(metrics=("perplexity", "bits_per_byte"))
    said = trainer().validate(language, batches, verbose=False)[0]
    bits = (1 + 2 + 2 + 1 + 1 + 1 + 2 + 2 + 2) / 9
    assert said["val/loss"] == pytest.approx(bits * math.log(2), rel=1e-6)
    assert said["val/bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    assert said["val/perplexity"] == pytest.approx(2**bits, rel=1e-6)


def test_training_on_windows_takes_the_mean_over_their_tokens() -> None:
    loss = task().training_step((BITS.expand(2, 3, 3), torch.tensor([[0, 1, 2], [0, 0, 0]])), 0)
    assert float(loss) == pytest.approx(8 / 6 * math.log(2), rel=1e-6)


def test_an_empty_share_of_windows_adds_nothing() -> None:
    empty = (torch.zeros(0, 3, 3), torch.zeros(0, 3, dtype=torch.long))
    batches = Batches([(BITS.expand(1, 3, 3), torch.tensor([[0, 1, 2]])), empty])
    said = trainer().validate(task(), batches, verbose=False)[0]
    assert said["val/loss"] == pytest.approx(5 / 3 * math.log(2), rel=1e-6)


def test_totals_are_summed_in_double_precision() -> None:
    # float32 holds no odd number above 2^24
    measured = task()
    measured.trainer = trainer()
    measured._totals = [torch.tensor([0.0, 2.0**24, 2.0**24]), *[torch.tensor([0.0, 0.0, 1.0])] * 5]
    assert measured.take_metrics("val")["val/accuracy"] == 2**24 / (2**24 + 5)


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_a_label_smoothing_out_of_range_is_refused_with_its_value(value: float) -> None:
    with pytest.raises(ValueError, match=rf"label_smoothing must be in \[0, 1\), got {value}"):
        task(label_smoothing=value)


def test_max_steps_is_the_horizon() -> None:
    assert horizon(Batches(examples(3)), max_steps=7) == 7


def test_the_horizon_counts_the_last_incomplete_accumulation_of_each_epoch() -> None:
    assert horizon(Batches(examples(5)), max_epochs=3, accumulate_grad_batches=2) == 3 * 3


def test_the_horizon_is_the_number_of_steps_that_are_taken() -> None:
    made = trainer(max_epochs=3, accumulate_grad_batches=2)
    made.fit(task(nn.Linear(4, 3)), Data(Batches(examples(5))))
    assert made.global_step == made.lr_scheduler_configs[0].scheduler.horizon


def test_max_steps_is_the_horizon_of_data_without_a_length() -> None:
    assert horizon(Stream(examples(10)), max_steps=4) == 4


def test_data_without_a_length_and_max_epochs_have_no_horizon() -> None:
    assert horizon(Stream(examples(3)), max_epochs=2) is None


def test_a_schedule_that_needs_an_end_says_that_data_without_a_length_want_max_steps() -> None:
    made = trainer(max_epochs=2)
    with pytest.raises(ConfigError, match=r"^schedule: .*set trainer\.max_steps .*dataset has no length"):
        made.fit(task(nn.Linear(4, 3), schedule=linear()), Data(Stream(examples(3))))


class Plain(Task):
    """A Task whose attributes are set as nn.Module sets them."""

    __setattr__ = L.LightningModule.__setattr__


def hooks_seen(cls: type[Task]) -> list[Any]:
    class Watched(cls):  # type: ignore[misc, valid-type]
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            seen.append(self._current_fx_name)
            return super().training_step(batch, batch_idx)

        def on_validation_epoch_end(self) -> None:
            seen.append(self._current_fx_name)
            super().on_validation_epoch_end()
            seen.append(self._current_fx_name)

        def on_train_end(self) -> None:
            seen.append(self._current_fx_name)

    seen: list[Any] = []
    network = nn.Linear(4, 3)
    module = Watched(network, partial(torch.optim.SGD, lr=0.1), constant(), param_groups(network, 0.1, None))
    trainer(max_steps=1).fit(module, Data(Batches(examples(1))))
    seen.append(module._current_fx_name)
    return seen


def test_the_name_of_the_running_hook_is_what_lightning_keeps_without_the_shortcut() -> None:
    seen = hooks_seen(Task)
    assert seen == hooks_seen(Plain)
    assert seen[:2] == ["training_step", "on_validation_epoch_end"]


class Gradients(L.Callback):
    """The gradient of the first step, before and after it was clipped."""

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self.before = torch.cat([p.grad.flatten() for p in pl_module.parameters()])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any) -> None:
        self.after = torch.cat([p.grad.flatten() for p in pl_module.parameters()])


def gradients(precision: str, **clip: Any) -> Gradients:
    torch.manual_seed(0)
    seen = Gradients()
    made = trainer(max_steps=1, precision=precision, callbacks=[seen], **clip)
    fused = partial(torch.optim.SGD, lr=0.1, fused=True)
    made.fit(task(nn.Linear(4, 3), optimizer=fused), Data(Batches(examples(1, size=16))))
    return seen


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
@pytest.mark.parametrize("algorithm", [{}, {"gradient_clip_algorithm": "norm"}])
def test_a_fused_optimizer_gets_a_gradient_of_the_norm_it_is_clipped_to(
    precision: str, algorithm: dict[str, str]
) -> None:
    seen = gradients(precision, gradient_clip_val=0.01, **algorithm)
    assert seen.before.norm() > 0.1
    torch.testing.assert_close(seen.after, seen.before * 0.01 / seen.before.norm(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_a_fused_optimizer_gets_a_gradient_clipped_by_value(precision: str) -> None:
    seen = gradients(precision, gradient_clip_val=0.05, gradient_clip_algorithm="value")
    assert seen.before.abs().min() < 0.05 < seen.before.abs().max()
    torch.testing.assert_close(seen.after, seen.before.clamp(-0.05, 0.05), rtol=0, atol=0)


@pytest.mark.parametrize("clip", [{}, {"gradient_clip_val": 0.0}])
def test_no_clipping_leaves_the_gradient_alone(clip: dict[str, float]) -> None:
    seen = gradients("bf16-mixed", **clip)
    assert torch.equal(seen.after, seen.before)
