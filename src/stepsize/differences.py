"""What differs between two configs as plain data."""

from collections.abc import Mapping
from typing import Any


def differences(key: str, before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """(key, value before, value now) of every leaf that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = [*before, *(name for name in now if name not in before)]
        return [d for name in names for d in differences(f"{key}.{name}".lstrip("."), before.get(name), now.get(name))]
    return [] if before == now else [(key, before, now)]
