"""Which point a trial takes: a function of the sweep's seed, the trial's number and the trials that have finished."""

import copy
import hashlib
import importlib.util
import itertools
import math
import warnings
from fractions import Fraction
from typing import Any, Literal, cast

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from stepsize.errors import ConfigError, suggestion
from stepsize.sweep.retries import is_repeat
from stepsize.sweep.seen import seen, stored
from stepsize.sweep.space import Space, rounded

NAMES = ("auto", "grid", "tpe", "random", "qmc", "gp", "cmaes")
GRID_UP_TO = 16  # trials: one short of the level that cuts four decades into quarters

_MOST_BEYOND = 4
_ALMOST = 1e-9  # a decade is two half decades, whatever the logarithms round to


def resolve(name: str, space: Space, n_trials: int) -> str:
    """The sampler that a sweep takes: `auto` is grid where that is enough, and tpe otherwise.

    It is enough for one logarithmic interval and few trials, and for choices whose combinations are no more than the
    trials; these are listed, each once.

    Args:
        name: one of NAMES.
        space: what is searched.
        n_trials: finished trials wanted.

    Raises:
        ConfigError: for a name that is none, grid for anything but one interval, cmaes without a number to search or
            without its package.
    """
    if name not in NAMES:
        raise ConfigError(f"sweep.sampler={name}: there is no such sampler; {suggestion(name, NAMES)}")
    if name in ("auto", "grid") and 0 < num_combinations(space) <= (n_trials if name == "auto" else math.inf):
        return "listed"
    one = next(iter(space.values())) if len(space) == 1 else None
    is_interval = isinstance(one, FloatDistribution) and one.step is None
    if name == "auto":
        return "grid" if is_interval and cast("FloatDistribution", one).log and n_trials <= GRID_UP_TO else "tpe"
    if name == "grid" and not is_interval:
        raise ConfigError(
            "sweep.sampler=grid: takes one interval, or choices alone, and the search is over "
            f"{', '.join(space) or 'nothing'}; take sweep.sampler=tpe, random or qmc"
        )
    if name == "cmaes" and not _numbers(space):
        raise ConfigError("sweep.sampler=cmaes: searches numbers, and there is none to search; take sweep.sampler=tpe")
    if name == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise ConfigError("sweep.sampler=cmaes: needs the package cmaes; pip install cmaes")
    return name


def num_combinations(space: Space) -> int:
    """How many combinations the choices of a space have; 0 where something else than choices is searched."""
    sizes = [len(d.choices) for d in space.values() if isinstance(d, CategoricalDistribution)]
    return math.prod(sizes) if sizes and len(sizes) == len(space) else 0


def combinations(space: Space) -> dict[str, list[Any]]:
    """Every combination of choices, the last parameter's changing fastest: parameter to its values in turn."""
    choices = [d.choices for d in space.values() if isinstance(d, CategoricalDistribution)]
    return dict(zip(space, map(list, zip(*itertools.product(*choices), strict=True)), strict=True))


def make(name: str, seed: int, space: Space) -> BaseSampler:
    """A sampler with no memory of its own, so that a study continued in another process goes on as if never left.

    Args:
        name: as resolved: any of NAMES but auto.
        seed: of the sweep.
        space: what is searched; the order of its parameters does not matter.
    """
    return _Sampler(name, seed, dict(sorted(space.items())))


def position(k: int) -> Fraction:
    """Where point k of the grid lies, 0 at the low end and 1 at the high: 1/2, 0, 1, 1/4, 3/4, 1/8, 3/8, ...

    Each level halves the one before, so any number of points is spread over the range: 9 points over four decades are
    the half decades.
    """
    if k < 3:
        return (Fraction(1, 2), Fraction(0), Fraction(1))[k]
    level = (k - 1).bit_length()
    return Fraction(2 * (k - 1 - 2 ** (level - 1)) + 1, 2**level)


def spacing(n_trials: int, distribution: FloatDistribution) -> float:
    """Factor between neighbours in the finest level that `n_trials` points of the grid complete; 3 complete the first.

    Args:
        n_trials: points of the grid, from the first.
        distribution: the range, logarithmic.
    """
    level = max(1, (n_trials - 1).bit_length() - 1)
    return float((distribution.high / distribution.low) ** (1 / 2**level))


def beyond(distribution: FloatDistribution, n_trials: int, end: Literal["low", "high"]) -> list[float]:
    """The points that continue the grid into the decade beyond an end, nearest first.

    They are as far apart as the grid's own, or twice, four times, ... as far where more than four would fit; the
    decade's end alone where none fits.

    Args:
        distribution: the range before it is widened, logarithmic.
        n_trials: points it was searched with.
        end: the one beyond which the points lie.
    """
    step = math.log10(spacing(n_trials, distribution))
    while 1 / step + _ALMOST >= _MOST_BEYOND + 1:
        step *= 2
    num = math.floor(1 / step + _ALMOST)
    exponents = [step * i for i in range(1, num + 1)] or [1.0]
    if end == "low":
        return [rounded(distribution.low / 10**x) for x in exponents]
    return [rounded(distribution.high * 10**x) for x in exponents]


class _Sampler(BaseSampler):
    """Makes Optuna's sampler anew for every draw, seeded by (sweep seed, trial number, parameter).

    Optuna's own samplers go on from where their generator stands, which another process does not know. The space is
    known here, so none has to infer it from the trials before, which would make the first ones a special case.
    """

    def __init__(self, name: str, seed: int, space: Space) -> None:
        self._name = name
        self._seed = seed
        self._known = space
        self._space = {
            "grid": {},
            "random": {},
            "cmaes": _numbers(space),
        }.get(name, {key: d for key, d in space.items() if not d.single()})

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        """What is drawn at once: a single value is not, as Optuna sets it itself, and CMA-ES knows numbers alone."""
        return self._space

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        """Draw the parameters that are drawn together."""
        if not search_space:
            return {}
        inner = self._inner(study, trial, "")
        return inner.sample_relative(self._seen(study, trial), _as_first(trial), search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter alone: every one of random search and the grid, and what the others start with."""
        if self._name == "grid":
            known = self._known.get(param_name, param_distribution)  # the study's range may be wider by now
            return _value(cast("FloatDistribution", known), position(_index(study, trial)))
        inner = self._inner(study, trial, param_name)
        return inner.sample_independent(self._seen(study, trial), _as_first(trial), param_name, param_distribution)

    def _seen(self, study: Study, trial: FrozenTrial) -> Study:
        if self._name == "random":  # it looks at nothing
            return study
        return seen(study, trial, is_pruned_complete=self._name in ("gp", "cmaes"))

    def _inner(self, study: Study, trial: FrozenTrial, draw: str) -> BaseSampler:
        digest = hashlib.sha256(f"{self._seed}:{_first_number(trial)}:{draw}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big")  # what numpy.random.RandomState takes
        match self._name:
            case "tpe":
                return TPESampler(seed=seed, constant_liar=True)  # a running trial keeps others away from its point
            case "gp":
                return GPSampler(seed=seed, warn_independent_sampling=False)
            case "cmaes":
                return CmaEsSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)
            case "qmc":
                return _Sobol(self._seed, _index(study, trial))
        return RandomSampler(seed=seed)


class _Sobol(QMCSampler):
    """Optuna's Sobol sequence, at a given point of it.

    Optuna takes the next point from a counter in storage that two workers can read at once; both then get one point.
    """

    def __init__(self, seed: int, index: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # for its interface; a test holds what is used here
            super().__init__(scramble=True, seed=seed, warn_independent_sampling=False)
        self._index = index

    def _find_sample_id(self, study: Study, search_space: Space) -> int:
        return self._index


def _numbers(space: Space) -> Space:
    return {key: d for key, d in space.items() if not isinstance(d, CategoricalDistribution) and not d.single()}


def _first_number(trial: FrozenTrial) -> int:
    """The number of the trial, or of the one that was killed and that it repeats."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


def _as_first(trial: FrozenTrial) -> FrozenTrial:
    first = copy.copy(trial)
    first.number = _first_number(trial)  # CMA-ES adds it to its seed
    return first


def _index(study: Study, trial: FrozenTrial) -> int:
    """How many points of a sequence the trials before this one take: all but those with given values and repeats."""
    number = _first_number(trial)
    return sum(t.number < number and not t.system_attrs.get("fixed_params") and not is_repeat(t) for t in stored(study))


def _value(distribution: FloatDistribution, at: Fraction) -> float:
    low, high, x = distribution.low, distribution.high, float(at)
    between = low ** (1 - x) * high**x if distribution.log else low + (high - low) * x
    return min(max(rounded(between), low), high)
