"""A Hydra application of a user's own, without torch: a function of x that does on request what goes wrong."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from stepsize import trial


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    number = int(Path(HydraConfig.get().runtime.output_dir).name)
    note(cfg, "began", number)
    print(f"this is what {number} printed", file=sys.stderr)
    wrong = (cfg.at or {}).get(number, cfg.always)
    befall(wrong, number)
    value = (cfg.x - 0.3) ** 2 + (cfg.y - 1) ** 2
    for step in range(cfg.reports):
        if (current := trial.current()) and current.report(step, value):
            break
        time.sleep(cfg.seconds)
    while cfg.hold and number in (cfg.held or [number]) and Path(cfg.hold).exists():
        time.sleep(0.02)
    time.sleep(cfg.seconds)
    note(cfg, "ended", number)
    return {"undefined": float("nan"), "text": "a few words"}.get(wrong, value)


def note(cfg: DictConfig, what: str, number: int) -> None:
    """One line in the file `seen`, whole even where several write."""
    if cfg.seen:
        with Path(cfg.seen).open("ab", buffering=0) as file:
            file.write(f"{what} {number} {os.getpid()} {cfg.x!r}\n".encode())


def befall(what: str | None, number: int) -> None:
    match what:
        case "raise":
            raise ValueError(f"trial {number} does not like it")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case "deaf":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "memory":
            held = []
            while True:
                held.append(bytearray(1 << 26))


if __name__ == "__main__":
    main()
