"""What every room's tests may use."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.optim import SGD, Adam

from stepsize.config import register

# Tests run beside each other; threads that wait for each other's core would make each twice as slow.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _schemas() -> None:
    register()


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Callable[..., DictConfig]]:
    """composed("optimizer=lbfgs", ...) is what the command line would compose, in the test's own run folder."""

    def make(*words: str) -> DictConfig:
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            cfg = compose("train", [*words], return_hydra_config=True)
        folder = str(tmp_path / "run")
        OmegaConf.update(cfg, "run_dir", folder, force_add=True)
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = folder
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg

    yield make
    HydraConfig.instance().cfg = None


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """command("optimizer=sgd", ...) runs train.py in the test's folder as a user would, and returns what it printed."""

    def run(*words: str, script: str = "train.py", timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(REPOSITORY / script), *words],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


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
