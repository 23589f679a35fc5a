"""Sweeps: search space, study, workers, pruning, report; the only room that speaks Optuna."""
