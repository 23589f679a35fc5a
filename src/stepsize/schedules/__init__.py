"""The schedules, one table: the word users type and the factory it names.

To add one: its file here, holding a factory named as the word that returns a `Schedule`; a line below; a YAML in
conf/schedule. The contract tests find it by themselves, and warmup works before it. Dotted names, so that listing the
choices imports nothing.
"""

SCHEDULES: dict[str, str] = {
    "constant": "stepsize.schedules.constant.constant",
    "linear": "stepsize.schedules.linear.linear",
    "cosine": "stepsize.schedules.cosine.cosine",
    "step": "stepsize.schedules.step.step",
    "multistep": "stepsize.schedules.multistep.multistep",
    "exponential": "stepsize.schedules.exponential.exponential",
    "polynomial": "stepsize.schedules.polynomial.polynomial",
    "inverse_sqrt": "stepsize.schedules.inverse_sqrt.inverse_sqrt",
    "one_cycle": "stepsize.schedules.one_cycle.one_cycle",
    "warmup_stable_decay": "stepsize.schedules.warmup_stable_decay.warmup_stable_decay",
    "cosine_restarts": "stepsize.schedules.cosine_restarts.cosine_restarts",
    "plateau": "stepsize.schedules.plateau.plateau",
}
