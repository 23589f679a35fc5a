"""The pruners by the words users type."""

import optuna
from optuna.pruners import BasePruner


def pruner(name: str) -> BasePruner:
    """Optuna's pruner: none, median, halving (asynchronous successive halving) or hyperband."""
    match name:
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=4)
        case "halving":
            return optuna.pruners.SuccessiveHalvingPruner()
        case "hyperband":
            return optuna.pruners.HyperbandPruner()
    return optuna.pruners.NopPruner()
