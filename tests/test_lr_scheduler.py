"""The one scheduler: every group's own lr times the schedule, with nothing but the step as state."""

import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from stepsize.lr_scheduler import ScheduledLR
from stepsize.schedules.constant import constant
from stepsize.schedules.cosine import cosine
from stepsize.schedules.linear import linear
from stepsize.schedules.plateau import plateau
from stepsize.schedules.schedule import Schedule
from stepsize.schedules.warmup import warmup

PEAKS = [1.0, 0.25]


def optimizer(peaks: list[Any] = PEAKS) -> Optimizer:
    return SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in peaks], lr=9.0)


def rates(scheduler: ScheduledLR) -> list[float]:
    return [float(group["lr"]) for group in scheduler.optimizer.param_groups]


def advance(scheduler: ScheduledLR, steps: int) -> None:
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()


def reloaded(state: dict[str, Any]) -> dict[str, Any]:
    """The state as a checkpoint would give it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_every_group_takes_its_own_lr_times_the_schedule() -> None:
    scheduler = ScheduledLR(optimizer(), linear(), 4)
    seen = []
    for _ in range(6):
        seen.append(rates(scheduler))
        advance(scheduler, 1)
    assert seen == [[m * peak for peak in PEAKS] for m in (1.0, 0.75, 0.5, 0.25, 0.0, 0.0)]


def test_the_first_step_is_taken_at_the_schedule_s_step_0() -> None:
    assert rates(ScheduledLR(optimizer(), warmup(constant(), warmup_steps=4), 10)) == [0.25, 0.0625]


def test_what_it_says_it_set_is_what_it_set() -> None:
    scheduler = ScheduledLR(optimizer(), linear(), 4)
    advance(scheduler, 1)
    assert (scheduler.get_last_lr(), scheduler.get_lr()) == (rates(scheduler), rates(scheduler))


def test_the_rates_of_any_step_can_be_asked_without_going_there() -> None:
    scheduler = ScheduledLR(optimizer(), linear(), 4)
    assert (scheduler.at(3), rates(scheduler)) == ([0.25, 0.0625], PEAKS)


def test_an_lr_that_is_a_tensor_stays_the_same_tensor() -> None:
    lr = torch.tensor(1.0)
    scheduler = ScheduledLR(optimizer([lr]), linear(), 4)
    advance(scheduler, 3)
    assert (scheduler.optimizer.param_groups[0]["lr"] is lr, lr.item()) == (True, 0.25)


def test_an_lr_that_is_a_tensor_continues_by_the_formula() -> None:
    first = ScheduledLR(optimizer([torch.tensor(1.0)]), linear(), 4)
    advance(first, 2)
    second = ScheduledLR(optimizer([torch.tensor(1.0)]), linear(), 4)
    second.load_state_dict(reloaded(first.state_dict()))
    advance(second, 1)
    assert rates(second) == [0.25]


def test_the_state_is_the_step_the_peaks_the_horizon_and_nothing_of_the_schedule() -> None:
    scheduler = ScheduledLR(optimizer(), warmup(cosine(), warmup_fraction=0.5), 4)
    advance(scheduler, 3)
    assert reloaded(scheduler.state_dict()) == {"step": 3, "base_lrs": PEAKS, "horizon": 4, "observed": None}


@pytest.mark.parametrize("schedule", [linear(), cosine(0.1), warmup(linear(), 3)], ids=["linear", "cosine", "warmup"])
@pytest.mark.parametrize("step", [0, 1, 5, 10, 12])
def test_a_resumed_schedule_continues_by_the_formula(schedule: Schedule, step: int) -> None:
    whole = ScheduledLR(optimizer(), schedule, 10)
    advance(whole, step)
    resumed = ScheduledLR(optimizer(), schedule, 10)
    resumed.load_state_dict(reloaded(whole.state_dict()))
    at_once = rates(resumed)
    advance(whole, 2)
    advance(resumed, 2)
    assert (at_once, rates(resumed)) == (whole.at(step), rates(whole))


def test_the_groups_have_the_right_lr_at_once_whatever_they_had_before_loading() -> None:
    scheduler = ScheduledLR(optimizer([7.0, 7.0]), linear(), 4)
    scheduler.load_state_dict({"step": 2, "base_lrs": PEAKS, "horizon": 4, "observed": None})
    assert (rates(scheduler), scheduler.get_last_lr()) == ([0.5, 0.125], [0.5, 0.125])


def test_an_extended_run_follows_the_formula_of_its_new_horizon() -> None:
    short = ScheduledLR(optimizer(), linear(), 4)
    advance(short, 4)
    long = ScheduledLR(optimizer(), linear(), 8)
    long.load_state_dict(reloaded(short.state_dict()))
    before = rates(long)
    advance(long, 2)
    assert (before, rates(long)) == ([0.5, 0.125], [0.25, 0.0625])


def test_an_extended_run_may_keep_its_horizon_and_then_stays_at_the_end() -> None:
    short = ScheduledLR(optimizer(), linear(0.5), 4)
    advance(short, 2)
    long = ScheduledLR(optimizer(), linear(0.5), 8, keeps_horizon=True)
    long.load_state_dict(reloaded(short.state_dict()))
    before = rates(long)
    advance(long, 6)
    assert (before, rates(long)) == (rates(short), [0.5, 0.125])


@pytest.mark.parametrize(("keeps", "horizon"), [(False, 8), (True, 4)])
def test_an_optimizer_that_warms_up_over_the_horizon_follows_the_schedule_s(keeps: bool, horizon: int) -> None:
    before, now = optimizer(), optimizer()
    for group in (*before.param_groups, *now.param_groups):
        group["horizon"] = 4  # as a saved optimizer has it
    long = ScheduledLR(now, linear(), 8, keeps_horizon=keeps)
    long.load_state_dict(reloaded(ScheduledLR(before, linear(), 4).state_dict()))
    assert [group["horizon"] for group in now.param_groups] == [horizon, horizon]


def test_observing_changes_nothing_where_the_schedule_is_a_pure_function() -> None:
    scheduler = ScheduledLR(optimizer(), linear(), 4)
    advance(scheduler, 1)
    scheduler.observe(float("inf"))
    assert rates(scheduler) == [0.75, 0.1875]


def test_a_plateau_acts_at_once_on_what_it_observes() -> None:
    scheduler = ScheduledLR(optimizer(), plateau(factor=0.5, patience=0), None)
    seen = []
    for value in (1.0, 1.0, 0.5, 0.5):
        scheduler.observe(value)
        seen.append((rates(scheduler), scheduler.get_last_lr()))
    assert seen == [(r, r) for r in ([1.0, 0.25], [0.5, 0.125], [0.5, 0.125], [0.25, 0.0625])]


def test_what_a_plateau_observed_survives_a_checkpoint() -> None:
    first = ScheduledLR(optimizer(), plateau(factor=0.5, patience=1), None)
    for value in (1.0, 1.0, 1.0, 1.0):  # best, bad, drop, bad
        first.observe(value)
    second = ScheduledLR(optimizer(), plateau(factor=0.5, patience=1), None)
    second.load_state_dict(reloaded(first.state_dict()))
    before = rates(second)
    second.observe(1.0)
    assert (before, rates(second)) == ([0.5, 0.125], [0.25, 0.0625])


def test_a_plateau_behind_a_warmup_observes_and_keeps_the_ramp() -> None:
    scheduler = ScheduledLR(optimizer([1.0]), warmup(plateau(factor=0.5, patience=0), warmup_steps=4), None)
    scheduler.observe(1.0)
    advance(scheduler, 1)
    scheduler.observe(1.0)
    ramp = rates(scheduler)
    advance(scheduler, 3)
    assert (ramp, rates(scheduler)) == ([0.25], [0.5])


def test_a_plateau_behind_a_warmup_survives_a_checkpoint() -> None:
    first = ScheduledLR(optimizer([1.0]), warmup(plateau(factor=0.5, patience=0), warmup_steps=4), None)
    advance(first, 6)
    first.observe(1.0)
    first.observe(1.0)
    second = ScheduledLR(optimizer([1.0]), warmup(plateau(factor=0.5, patience=0), warmup_steps=4), None)
    second.load_state_dict(reloaded(first.state_dict()))
    assert rates(second) == [0.5]


def test_a_pure_schedule_takes_over_from_a_plateau() -> None:
    first = ScheduledLR(optimizer([1.0]), plateau(factor=0.5, patience=0), 4)
    advance(first, 2)
    second = ScheduledLR(optimizer([1.0]), linear(), 4)
    second.load_state_dict(reloaded(first.state_dict()))
    assert rates(second) == [0.5]
