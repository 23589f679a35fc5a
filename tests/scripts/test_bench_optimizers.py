import argparse
import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from stepsize.config import CONF

TORCH_SIDES = ["torch fused", "torch foreach", "torch loop"]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CONF.parent / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(CONF.parent / "scripts"))  # as Python does for a script that is run: it imports its neighbours
script = load("bench_optimizers")
CPU = torch.device("cpu")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_optimizers.py", *words])
    monkeypatch.setattr(script.logging, "disable", lambda level: None)
    script.main()


@pytest.fixture
def without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PEERS", {})


@pytest.fixture
def without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled runs as it is: the sides are the same, without the seconds."""
    monkeypatch.setattr(torch, "compile", lambda rule, **options: rule)


def table(out: str) -> dict[tuple[str, str], list[str]]:
    """The figures of each row, by word and side, out of a Markdown table."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("| ")]
    return {(row[0], row[1]): row[2:] for row in rows[1:]}


def test_every_side_of_a_word_has_a_row(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    without_peers: None,
    without_compiling: None,
) -> None:
    run(monkeypatch, "tiny", "momentum", "lion", "--repeats", "2", "--markdown")
    rows = table(capsys.readouterr().out)
    ours = ["ours compiled", "ours eager", "reference: AdamW fused"]
    assert list(rows) == [("momentum", s) for s in TORCH_SIDES] + [("lion", s) for s in ours]
    for milliseconds, nanoseconds, *_ in rows.values():
        assert float(nanoseconds) == pytest.approx(float(milliseconds) * 1e6 / 1080, rel=0.1)


def test_hyperparameters_can_be_set_for_all_sides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], without_peers: None
) -> None:
    assert script.chosen("shampoo", CPU, ["precondition_frequency=1"])[1]["precondition_frequency"] == 1
    with pytest.raises(SystemExit):
        run(monkeypatch, "tiny", "lion", "--set", "weigth_decay=1")
    out = capsys.readouterr()
    assert "did you mean weight_decay?" in out.err
    assert "ours compiled" not in out.out


def test_what_compiling_saves_and_costs_is_printed_for_ours(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    without_peers: None,
    without_compiling: None,
) -> None:
    run(monkeypatch, "tiny", "sgd", "lion", "--repeats", "1")
    lines = [line for line in capsys.readouterr().out.splitlines() if "compiling saves" in line]
    assert [line.split(":")[0] for line in lines] == ["lion"]


def test_compiling_is_paid_back_after_its_seconds_over_what_it_saves() -> None:
    compiled = script.Row("lion", "ours compiled", 0.01, 1000, None, None, first=5.0, to_peer=None)
    eager = script.Row("lion", "ours eager", 0.03, 1000, None, None, first=1.0, to_peer=None)
    # 20 ms over 1000 parameters are 2e-5 s for each; 4 s are as much as 2e5 of them.
    [line] = script.payback([compiled, eager])
    assert "2.0e+05 parameters x steps" in line
    [line] = script.payback([compiled, script.Row("lion", "ours eager", 0.01, 1000, None, None, 1.0, None)])
    assert "never" in line


@pytest.mark.parametrize(
    ("word", "expected"),
    [("sgd", 12), ("momentum", 20), ("adagrad", 20), ("rmsprop", 20), ("lion", 20), ("adam", 28), ("adamw", 28)],
)
def test_bytes_of_one_pass_are_those_of_parameter_gradient_and_states(word: str, expected: int) -> None:
    assert bytes_a_parameter(word) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [("lars", 28), ("lamb", 40), ("ademamix", 36), ("schedule_free_adamw", 28), ("mars", 44), ("prodigy", 52)],
)
def test_bytes_of_ours_are_those_of_the_docstring(word: str, expected: int) -> None:
    assert bytes_a_parameter(word) == expected


def bytes_a_parameter(word: str) -> float:
    script.register()
    cls, numbers = script.chosen(word, CPU)
    shapes = script.SHAPES["tiny"]()
    optimizer = cls(script.fixed(shapes, CPU), **numbers)
    optimizer.step()
    moved: int = script.moved(optimizer, word)
    return moved / sum(torch.Size(s).numel() for s in shapes.values())


def test_factored_states_are_no_pass_over_memory() -> None:
    optimizer = torch.optim.Adafactor(script.fixed({"matrix": (8, 8)}, CPU))
    optimizer.step()
    assert script.moved(optimizer, "adafactor") is None


def test_sides_that_share_a_turn_are_measured_equally_often() -> None:
    sides = [script.copying(10, CPU), script.copying(20, CPU)]
    script.take_turns(sides, 5, 60.0, CPU)
    assert [len(side.turns) for side in sides] == [5, 5]


def test_turns_end_when_their_time_is_up() -> None:
    side = script.copying(10, CPU)
    script.take_turns([side], 1000, 0.0, CPU)
    assert len(side.turns) == 1


def test_a_peer_that_is_not_installed_is_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    script.register()
    monkeypatch.setattr(script, "PEERS", {"adamw": [script.Peer("no_such_library.AdamW")]})
    sides, notes = script.sides_of("adamw", CPU)
    assert [side.name for side in sides] == TORCH_SIDES
    assert notes == ["adamw: without no_such_library.AdamW: No module named 'no_such_library'"]


def test_a_peer_is_compared_to_with_the_same_hyperparameters(monkeypatch: pytest.MonkeyPatch) -> None:
    script.register()
    monkeypatch.setattr(script, "PEERS", {"lion": [script.Peer("torch.optim.RMSprop", {"alpha": "lr"}, {"eps": 0.5})]})
    sides, _ = script.sides_of("lion", CPU)
    _, numbers = script.chosen("lion", CPU)
    theirs = sides[-1].make(script.fixed({"matrix": (2, 2)}, CPU)).defaults
    assert theirs["lr"] == theirs["alpha"] == numbers["lr"]
    assert theirs["weight_decay"] == numbers["weight_decay"]
    assert theirs["eps"] == 0.5
    assert theirs["foreach"]


class DropsGradients(torch.optim.SGD):
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        self.zero_grad()


def test_a_peer_whose_later_steps_would_do_nothing_is_not_timed() -> None:
    side = script.Side(word="sgd", name="peer", library="peer", make=DropsGradients)
    args = argparse.Namespace(device=CPU, repeats=1, seconds=1.0)
    notes = script.contest([side], [], {"matrix": (2, 2)}, args, script.tqdm(disable=True))
    assert notes == ["sgd: without peer: it drops the gradients, and its next step would do nothing"]
    assert not side.turns


def test_every_word_of_the_peers_is_in_the_table() -> None:
    assert set(script.PEERS) <= set(script.OPTIMIZERS)


def test_a_word_that_calls_its_closure_again_is_left_out_with_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "tiny", "lbfgs")
    assert "lbfgs: left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["tiny", "loin"], "there is no optimizer loin; did you mean lion?"),
        (["transfomer"], "there is no shape set transfomer; did you mean transformer?"),
        (["tiny", "--repeats", "0"], "--repeats must be 1 or more, got 0"),
    ],
)
def test_a_wrong_word_is_refused_with_an_answer(
    words: list[str], answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, *words)
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [("transformer", 16_935_936, 68), ("transformer_large", 124_439_808, 196), ("resnet", 25_557_032, 161)],
)
def test_shape_sets_are_those_of_the_networks(name: str, parameters: int, tensors: int) -> None:
    shapes = script.SHAPES[name]()
    assert len(shapes) == tensors
    assert sum(torch.Size(s).numel() for s in shapes.values()) == parameters


def test_hidden_matrices_are_flat_and_leave_out_embeddings_and_vectors() -> None:
    shapes = {"token_embedding.weight": (9, 4), "convolution.weight": (8, 3, 5, 5), "bias": (8,)}
    assert script.hidden(shapes) == {"convolution.weight": (8, 75)}
