"""A trained network is loaded from its checkpoint alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig

import stepsize
from stepsize import build
from stepsize.data.module import DataModule
from stepsize.errors import ConfigError
from stepsize.models import MODELS
from stepsize.optimizers import OPTIMIZERS
from stepsize.run import train

Composed = Callable[..., DictConfig]
Saved = Callable[..., Path]
QUICK = ("trainer=cpu", "callbacks.progress.refresh_rate=0", "logger=none")


@pytest.fixture
def saved(composed: Composed, tmp_path: Path) -> Saved:
    """saved("model=convnet", ...) writes a checkpoint of an untrained network, and returns its path."""

    def make(*words: str, name: str = "best", **changes: Any) -> Path:
        cfg = composed(*words)
        network = build.network(cfg, build.data(cfg))
        about = {"format": 1, "version": "0.1.0", "config": build.plain(cfg), "words": list(words)} | changes
        path = tmp_path / "run" / "checkpoints" / f"{name}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {f"network.{k}": w for k, w in network.state_dict().items()}
        torch.save({"global_step": 1, "epoch": 0, "state_dict": weights, "stepsize": about}, path)
        return path

    return make


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {k.removeprefix("network."): w for k, w in torch.load(path, weights_only=True)["state_dict"].items()}


def is_same(network: torch.nn.Module, path: Path) -> bool:
    state, expected = network.state_dict(), weights(path)
    return state.keys() == expected.keys() and all(torch.equal(state[k], w) for k, w in expected.items())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loaded_network_is_as_good_on_the_test_data_as_its_run_said(composed: Composed, optimizer: str) -> None:
    cfg = composed(*QUICK, f"optimizer={optimizer}", "schedule=constant", "trainer.max_steps=3")
    train(cfg)
    network = stepsize.load(cfg.run_dir)
    data: Any = build.data(cfg)
    data.setup("test")
    x, y = data.test
    with torch.no_grad():
        logits = network(x)
    said = json.loads((Path(cfg.run_dir) / "result.json").read_text())["test"]
    assert F.cross_entropy(logits, y).item() == pytest.approx(said["test/loss"], rel=1e-6)
    assert (logits.argmax(1) == y).double().mean().item() == pytest.approx(said["test/accuracy"], rel=1e-6)


@pytest.mark.parametrize(
    "words",
    [
        ("model=mlp", "data=digits", "model.widths=[3,5]"),
        ("model=convnet", "data=mnist1d", "model.widths=[8]"),
        ("model=convnet", "data=cifar10", "model.widths=[8]"),
        ("model=mlp", "data=fashion_mnist"),
        ("model=gpt", "data=text", "model.width=16", "model.num_heads=2", "data.context_length=8"),
    ],
)
def test_no_data_are_read(saved: Saved, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(*words)
    for name in ("load", "prepare_data", "setup"):
        monkeypatch.setattr(DataModule, name, None)
    assert is_same(stepsize.load(path), path)


def test_of_a_run_it_is_the_best_checkpoint(saved: Saved) -> None:
    last, best = saved("model=mlp", name="last"), saved("model=mlp")
    assert is_same(stepsize.load(best.parents[1]), best)
    assert not is_same(stepsize.load(best.parents[1]), last)


def test_of_a_run_without_a_best_checkpoint_it_is_the_last(saved: Saved) -> None:
    last = saved(name="last")
    assert is_same(stepsize.load(last.parents[1]), last)


def test_of_a_checkpoint_it_is_that_one(saved: Saved) -> None:
    last, _ = saved(name="last"), saved()
    assert is_same(stepsize.load(str(last)), last)


def test_it_is_in_eval_mode_with_all_its_parts(saved: Saved) -> None:
    network = stepsize.load(saved("model=convnet", "model.widths=[8]", "model.dropout=0.5"))
    assert not any(part.training for part in network.modules())


def test_it_lies_on_the_device_asked_for(saved: Saved) -> None:
    network = stepsize.load(saved(), device="meta")
    assert {p.device.type for p in network.parameters()} == {"meta"}


def test_the_random_state_stays(saved: Saved) -> None:
    path = saved()
    before = torch.get_rng_state()
    stepsize.load(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_that_was_compiled_comes_back_uncompiled(saved: Saved) -> None:
    assert stepsize.load(saved("compile=true"))._compiled_call_impl is None


@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)])
def test_the_weights_keep_the_precision_that_they_were_trained_in(
    composed: Composed, precision: str, dtype: torch.dtype
) -> None:
    cfg = composed(*QUICK, "optimizer=sgd", f"trainer.precision={precision}", "trainer.max_steps=1")
    train(cfg)
    network = stepsize.load(cfg.run_dir)
    assert {p.dtype for p in network.parameters()} == {dtype}
    assert is_same(network, Path(cfg.run_dir) / "checkpoints" / "best.ckpt")


def test_a_new_process_anywhere_loads_it_without_hydra_or_a_trainer(saved: Saved, tmp_path: Path) -> None:
    program = """
import sys, stepsize
assert not {"torch", "lightning", "hydra"} & set(sys.modules), "importing stepsize is cheap"
import lightning
lightning.Trainer.__init__ = None
network = stepsize.load(sys.argv[1])
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
assert not GlobalHydra.instance().is_initialized() and not HydraConfig.initialized()
print(type(network).__name__)
"""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, str(saved())], cwd=elsewhere, capture_output=True, text=True, check=False
    )
    assert (done.stdout, list(elsewhere.iterdir())) == ("MLP\n", []), done.stderr


def test_a_model_of_one_s_own_is_loaded_once_it_is_in_the_table(
    saved: Saved, composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build.plain(composed()) | {"model": {"_target_": "stepsize.models.mlp.Mine", "_partial_": True}}
    path = saved("model.widths=[]", config=config)
    monkeypatch.setattr(
        "stepsize.models.mlp.Mine", lambda shape, n: stepsize.models.mlp.MLP(shape, n, widths=()), raising=False
    )
    with pytest.raises(
        ConfigError, match=r"calls stepsize\.models\.mlp\.Mine, which is not in stepsize\.models\.MODELS"
    ):
        stepsize.load(path)
    monkeypatch.setitem(MODELS, "mine", "stepsize.models.mlp.Mine")
    assert is_same(stepsize.load(path), path)


@pytest.mark.parametrize(
    ("node", "called"),
    [
        ({"_target_": "pathlib.Path.touch", "_partial_": True, "self": "ran"}, "pathlib.Path.touch"),
        (
            {"_target_": MODELS["mlp"], "widths": {"_target_": "pathlib.Path.touch", "self": "ran"}},
            "pathlib.Path.touch",
        ),
        ({"_target_": MODELS["mlp"], "widths": [{"_target_": "os.getcwd"}]}, "os.getcwd"),
        ({"_target_": MODELS["mlp"], "_partial_": True, "widths": "${eval:1}"}, r"\$\{eval:1\}"),
        ({"_target_": "${oc.env:HOME}"}, r"\$\{oc.env:HOME\}"),
        ({}, "nothing"),
        (None, "nothing"),
    ],
)
@pytest.mark.parametrize("group", ["model", "data"])
def test_a_file_does_not_choose_what_is_called(
    saved: Saved,
    composed: Composed,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    group: str,
    node: Any,
    called: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(config=build.plain(composed()) | {group: node})
    with pytest.raises(ConfigError, match=rf"its {group} calls ({called}|{MODELS['mlp']}), which is not in stepsize\."):
        stepsize.load(path)
    assert not Path("ran").exists()


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize(
    "content",
    [b"", b"no checkpoint", {"weights": 1}, {"state_dict": {}}, [1, 2], {"stepsize": Attack()}],
    ids=["empty", "text", "stranger", "lightning", "list", "code"],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.ckpt"
    write = path.write_bytes if isinstance(content, bytes) else lambda value: torch.save(value, path)
    write(content)
    with pytest.raises(ConfigError, match=r"^.*file\.ckpt .+$") as error:
        stepsize.load(path)
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()


def test_a_checkpoint_of_a_newer_format_is_refused_with_its_version(saved: Saved) -> None:
    with pytest.raises(ConfigError, match=r"best\.ckpt was written by a later version of Stepsize, 9\.1"):
        stepsize.load(saved(format=2, version="9.1"))


@pytest.mark.parametrize("config", [{"widths": [5]}, {"wdths": [5]}])
def test_weights_of_another_network_are_refused_in_one_line(saved: Saved, composed: Composed, config: Any) -> None:
    plain = build.plain(composed())
    path = saved(config=plain | {"model": {**plain["model"], **config}})
    with pytest.raises(ConfigError, match=r"^.*best\.ckpt: .+") as error:
        stepsize.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "said"), [("nowhere", "no such folder and no such checkpoint"), ("", "no best.ckpt and no last.ckpt in ")]
)
def test_where_there_is_no_checkpoint_is_said(tmp_path: Path, place: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        stepsize.load(tmp_path / place)
