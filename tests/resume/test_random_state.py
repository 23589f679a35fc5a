import io
import random

import numpy as np
import pytest
import torch

from stepsize.resume import random_state

CPU = torch.device("cpu")


def drawn() -> list[float]:
    """What each generator gives next; twice from Python's and NumPy's Gaussians, which keep the second of a pair."""
    gauss = [random.gauss(0, 1), np.random.normal()]
    return [random.random(), np.random.rand(), torch.rand(()).item(), torch.randn(17).sum().item(), *gauss]


def test_all_generators_go_on_where_they_were() -> None:
    random.gauss(0, 1), np.random.normal()  # so that each has the second of a pair in store
    state = random_state.current(CPU)
    first = drawn()
    drawn()
    random_state.restore(state, CPU)
    assert drawn() == first


def test_the_state_is_plain_data_and_survives_a_file() -> None:
    file = io.BytesIO()
    torch.save(random_state.current(CPU), file)
    expected = drawn()
    file.seek(0)
    random_state.restore(torch.load(file, weights_only=True), CPU)
    assert drawn() == expected


def test_looking_at_the_state_draws_nothing() -> None:
    random_state.restore(random_state.current(CPU), CPU)
    state = random_state.current(CPU)
    random_state.current(CPU)
    first = drawn()
    random_state.restore(state, CPU)
    assert drawn() == first


@pytest.mark.gpu
def test_a_gpus_generator_goes_on_where_it_was() -> None:
    device = torch.device("cuda", 0)
    state = random_state.current(device)
    first = torch.rand(5, device=device)
    random_state.restore(state, device)
    assert torch.equal(torch.rand(5, device=device), first)


@pytest.mark.gpu
def test_a_state_of_the_cpu_leaves_a_gpus_generator_alone() -> None:
    device = torch.device("cuda", 0)
    before = torch.cuda.get_rng_state(device)
    random_state.restore(random_state.current(CPU), device)
    assert torch.equal(torch.cuda.get_rng_state(device), before)
