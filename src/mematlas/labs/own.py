"""What a workload says of itself: its PID, as those who look at it count."""

from __future__ import annotations

import os

from mematlas.errors import TargetNotFound
from mematlas.kernel.procfs import ProcFS
from mematlas.model.target import own_pid


def shown_pid() -> int:
    """Return our PID in this /proc, which may be of another PID namespace; that of our own where /proc shows us not."""
    try:
        return own_pid(ProcFS())
    except TargetNotFound:
        return os.getpid()
