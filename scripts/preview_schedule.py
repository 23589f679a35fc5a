"""Draw the learning rate of a composed config over its whole run, before it runs.

    python scripts/preview_schedule.py schedule=warmup_cosine
    python scripts/preview_schedule.py experiment=mnist1d_convnet schedule=one_cycle trainer.max_epochs=5

It takes the words of train.py and starts that run, up to its first step: what it draws is what the run will do. The
curve is printed, and saved as schedule_<word>.png.
"""

import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from stepsize.answers import one_line_errors
from stepsize.config import CONF, register
from stepsize.errors import ConfigError

HEIGHT = 12  # lines of the terminal
EIGHTHS = " ▁▂▃▄▅▆▇█"


def planned(cfg: DictConfig) -> Mapping[str, Sequence[float]]:
    """The learning rate of each parameter group at steps 0 to horizon, from the scheduler that the run would use."""
    import lightning as L

    from stepsize import build
    from stepsize.check import check
    from stepsize.lr_scheduler import ScheduledLR

    class StopAtTheStart(L.Callback):
        """Ends a fit once everything is set up."""

        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            trainer.fit_loop.max_epochs = 0

    check(cfg)
    with tempfile.TemporaryDirectory() as folder:
        trainer, task, data, _ = build.assemble(cfg, Path(folder))
        trainer.callbacks.append(StopAtTheStart())  # type: ignore[attr-defined]
        trainer.fit(task, data)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, ScheduledLR)
    if scheduler.horizon is None:
        raise ConfigError("a run without an end has no curve to draw: set trainer.max_steps or trainer.max_epochs")
    rates = [scheduler.at(step) for step in range(scheduler.horizon + 1)]
    names = [group["name"] for group in scheduler.optimizer.param_groups]
    return {name: [float(at[i]) for at in rates] for i, name in enumerate(names)}


def save(curves: Mapping[str, Sequence[float]], title: str, path: Path) -> None:
    """Save the curves as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, rates in curves.items():
        axes.plot(rates, label=name)
    axes.set(title=title, xlabel="optimizer step", ylabel="learning rate", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def bars(rates: Sequence[float], width: int) -> str:
    """A curve as lines of block characters, `width` columns, each the value at its place in the run."""
    top = max(rates) or 1.0
    places = [round(i * (len(rates) - 1) / max(1, width - 1)) for i in range(width)]
    heights = [round(rates[place] / top * HEIGHT * 8) for place in places]
    lines = []
    for row in reversed(range(HEIGHT)):
        scale = f"{top * (row + 1) / HEIGHT:9.2e} "
        lines.append(scale + "".join(EIGHTHS[min(8, max(0, height - 8 * row))] for height in heights))
    return "\n".join([*lines, f"{'step':>9} 0{len(rates) - 1:>{width - 1}}"])


@one_line_errors
def main() -> None:
    """Print the curve, and save it."""
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*sys.argv[1:], "name=preview"], True)
    words = cfg.hydra.runtime.choices
    cfg.logger, cfg.callbacks = None, {}  # not by their words: those of the run may set keys of what it chose
    warnings.filterwarnings("ignore")  # what the run itself will say
    logging.disable(logging.INFO)
    curves = planned(cfg)

    longest = max(curves.values(), key=max)
    title = f"optimizer={words.optimizer} schedule={words.schedule}, {len(longest) - 1} steps"
    path = Path(f"schedule_{words.schedule}.png")
    save(curves, title, path)
    print(title)
    print(bars(longest, width=min(100, shutil.get_terminal_size().columns - 12)))
    print(path)


if __name__ == "__main__":
    main()
