"""What may be said of a sweep: `sweep.KEY=` in the recipe, `hydra.sweeper.KEY=` in any other Hydra application."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from stepsize.bounds import COUNT, WHOLE
from stepsize.errors import ConfigError, suggestion


class Purpose(StrEnum):
    """What a list of words after a group means: search, values of a parameter; compare, a study for each."""

    search = "search"
    compare = "compare"


_MOST_DECADES = 20  # on each side: more than any learning rate has
PRUNERS = ("none", "median", "halving", "hyperband")


@dataclass
class Options:
    """Options of a sweep.

    Args:
        study: name; None makes it of the words chosen for the groups in `named_by`.
        n_trials: finished trials wanted in all, 1 or more; those of an earlier command count.
        workers: trials at once on this machine, 1 or more.
        storage: SQLAlchemy's URL of a database that all machines reach; None is a file in the sweep's folder.
        sampler: auto, grid, tpe, random, qmc, gp or cmaes.
        pruner: none, median, halving or hyperband.
        max_failures: the sweep ends when more trials than this have raised or been killed, 0 or more.
        seed: of the sampler, 0 or more.
        low, high: ends of the range of `rate`; None leaves them to the optimizer's default.
        decades: of the range on each side of that default.
        purpose: whether lists of words are searched or compared.
        confirm_seeds: fresh seeds with which the best of each is run again, 0 or more.
        rate: the parameter that is the learning rate, such as "optimizer.lr", searched unless the command says how;
            None searches only what the command says.
        space: parameter to its range in Hydra's grammar; the command line has the last word.
        metric, mode: what the task returns, and whether "min" or "max" of it is better.
        named_by: groups whose words make the study's name.
        default_rate: dotted name of a function that gives the rate's default from a composed config.
        check: dotted name of a function that refuses a composed config, called before anything is made.
        node: the config's key that holds these options; left out of the trials' command lines.
    """

    study: str | None = None
    n_trials: int = 9
    workers: int = 1
    storage: str | None = None
    sampler: str = "auto"
    pruner: str = "none"
    max_failures: int = 5
    seed: int = 0
    low: float | None = None
    high: float | None = None
    decades: float = 2.0
    purpose: Purpose = Purpose.search
    confirm_seeds: int = 0
    rate: str | None = None
    space: dict[str, str] = field(default_factory=dict)
    metric: str = "objective"
    mode: str = "min"
    named_by: list[str] = field(default_factory=list)
    default_rate: str | None = None
    check: str | None = None
    node: str | None = None


def read(options: Mapping[str, Any]) -> Options:
    """Options from plain data, checked.

    Raises:
        ConfigError: a key that there is not, or a value out of its range.
    """
    known = [f.name for f in fields(Options)]
    for key in options:
        if key not in known:
            raise ConfigError(f"sweep.{key}: there is no such key; {suggestion(key, known)}")
    purpose = options.get("purpose", Purpose.search)
    if purpose not in list(Purpose):
        raise ConfigError(f"sweep.purpose={purpose}: there is no such purpose; {suggestion(str(purpose), Purpose)}")
    made = Options(**{**options, "purpose": Purpose(purpose)})
    for name, interval in (
        ("n_trials", COUNT),
        ("workers", COUNT),
        ("max_failures", WHOLE),
        ("seed", WHOLE),
        ("confirm_seeds", WHOLE),
    ):
        value = getattr(made, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < interval.low:
            raise ConfigError(f"sweep.{name} must be a whole number of at least {interval.low:g}, got {value}")
    for name in ("low", "high"):
        value = getattr(made, name)
        if value is not None and not isinstance(value, (int, float)):
            raise ConfigError(f"sweep.{name} must be a number, got {value}")
    if not isinstance(made.decades, (int, float)) or not 0 < made.decades <= _MOST_DECADES:
        raise ConfigError(f"sweep.decades must be a number above 0, and {_MOST_DECADES} at most, got {made.decades}")
    if made.pruner not in PRUNERS:
        raise ConfigError(f"sweep.pruner={made.pruner}: there is no such pruner; {suggestion(made.pruner, PRUNERS)}")
    if made.mode not in ("min", "max"):
        raise ConfigError(f"sweep.mode must be min or max, got {made.mode}")
    if made.purpose == Purpose.compare and made.pruner != "none":
        raise ConfigError(
            f"sweep.pruner={made.pruner}: a comparison stops nothing but what diverges, as rankings change while the "
            "learning rate decays; leave it out"
        )
    return made
