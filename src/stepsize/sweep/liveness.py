"""Whether the process that runs a trial still does."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What identifies this process among all that share a storage."""
    return {"host": _host(), "pid": os.getpid(), "born": _born(os.getpid())}


def _host() -> str:
    """What two processes share that see the same process numbers."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(known)


def is_gone(runner: Mapping[str, Any] | None) -> bool:
    """Whether a process that ran a trial on this machine runs no more; on another machine only its heartbeat tells."""
    if runner is None or runner["host"] != _host():
        return False
    try:
        os.kill(runner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return bool(_born(runner["pid"]) != runner["born"])


def _born(pid: int) -> str:
    """When a process began, in the kernel's words; "" where the system has no /proc."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
