"""What must be the same for a study to be continued."""

import json
from collections.abc import Mapping
from typing import Any

from stepsize.differences import differences
from stepsize.sweep import space
from stepsize.sweep.plan import Plan


def fingerprint(plan: Plan) -> dict[str, Any]:
    """The space and the config of a plan, as a storage gives them back."""
    return dict(json.loads(json.dumps({"space": space.to_json(plan.space), "config": dict(plan.fingerprint)})))


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, a line each."""
    found = space.changes(space.from_json(before["space"]), space.from_json(now["space"]))
    return found + [
        f"{key} was {was}, is {is_now}" for key, was, is_now in differences("", before["config"], now["config"])
    ]
