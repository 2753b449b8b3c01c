"""/sys/kernel/security/lockdown: what the kernel keeps from root as well.

Format: kernel_lockdown(7); security/lockdown/lockdown.c.
"""

from __future__ import annotations

LOCKDOWN_PATH = "/sys/kernel/security/lockdown"


def read_lockdown(path: str = LOCKDOWN_PATH) -> str | None:
    """Return ``none``, ``integrity`` or ``confidentiality``; None where the kernel has no lockdown, or does not say.

    >>> read_lockdown()  # doctest: +SKIP
    'integrity'
    """
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().partition("[")[2].partition("]")[0] or None
    except OSError:
        return None
