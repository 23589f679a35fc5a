"""The same algorithms in other libraries, for scripts/bench_optimizers.py; none of them is needed to run it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PERIOD = "precondition_frequency"  # the hyperparameter that counts steps between refreshes


@dataclass(frozen=True)
class Peer:
    """How another library makes an optimizer of the table.

    Hyperparameters that have the same name there are handed on.

    Args:
        path: of the class.
        renamed: its name of a hyperparameter, to ours.
        also: what it needs besides, so that both do the same work.
        group: what its parameter group needs.
        variant: tells it from another one of the same library.
    """

    path: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    also: Mapping[str, Any] = field(default_factory=dict)
    group: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""


KEPT = {"consume_grad": False}  # heavyball drops gradients after a step, and without them the next does nothing
ROOTS = {"preconditioning_compute_steps": PERIOD}
PEERS: dict[str, list[Peer]] = {
    "momentum": [Peer("heavyball.SGD", {"beta": "momentum"}, KEPT)],
    "adamw": [Peer("heavyball.AdamW", also=KEPT), Peer("timm.optim.adamw.AdamWLegacy")],
    "nadam": [Peer("heavyball.NAdam", also=KEPT)],
    "radam": [Peer("pytorch_optimizer.RAdam")],
    "lars": [
        Peer("pytorch_optimizer.LARS", {"trust_coefficient": "trust_coefficient"}),
        Peer("timm.optim.lars.Lars", {"trust_coeff": "trust_coefficient"}),
    ],
    "lamb": [
        Peer("pytorch_optimizer.Lamb", also={"max_grad_norm": 0.0}),
        Peer("timm.optim.lamb.Lamb", also={"max_grad_norm": None}),
    ],
    "lion": [Peer("pytorch_optimizer.Lion"), Peer("timm.optim.lion.Lion")],
    "muon": [
        Peer("torch.optim.Muon", also={"ns_coefficients": (3.4445, -4.775, 2.0315)}),
        Peer("pytorch_optimizer.Muon", group={"use_muon": True}),
        Peer("timm.optim.muon.Muon"),
        Peer("heavyball.Muon", also=KEPT | {"heavyball_momentum": True}),
    ],
    "soap": [
        Peer("pytorch_optimizer.SOAP"),
        Peer("heavyball.SOAP", {"max_precond_dim": "max_precondition_dim"}, KEPT | {"use_precond_schedule": False}),
    ],
    "shampoo": [
        Peer("pytorch_optimizer.Shampoo", ROOTS),
        Peer("pytorch_optimizer.ScalableShampoo", ROOTS, variant="scalable"),
    ],
    "ademamix": [
        Peer("pytorch_optimizer.AdEMAMix", also={"weight_decouple": True}),
        Peer("heavyball.AdEMAMix", also=KEPT),
    ],
    "schedule_free_adamw": [
        Peer("schedulefree.AdamWScheduleFree"),
        Peer("pytorch_optimizer.ScheduleFreeAdamW"),
        Peer("heavyball.SFAdamW", also=KEPT),
    ],
    "schedule_free_sgd": [Peer("schedulefree.SGDScheduleFree"), Peer("pytorch_optimizer.ScheduleFreeSGD")],
    "mars": [
        Peer("pytorch_optimizer.MARS", also={"optimize_1d": True}),
        Peer("timm.optim.mars.Mars", also={"optimize_1d": True}),
    ],
    "prodigy": [Peer("pytorch_optimizer.Prodigy")],
}
