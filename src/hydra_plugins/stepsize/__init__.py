"""Hydra's plugins: a sweeper on Optuna and a launcher on a fork server, for any Hydra application."""
