"""What we may do: our capabilities, by name.

Format: proc_pid_status(5), CapEff; capabilities(7); numbers in include/uapi/linux/capability.h.
"""

from __future__ import annotations

import os

CAPABILITIES = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_FOWNER": 3,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}
"""The capabilities that open something here."""


def effective_capabilities() -> frozenset[str]:
    """Return the names, of those that matter here, of the capabilities in effect now; none where /proc is not ours."""
    try:
        with open("/proc/thread-self/status", "rb") as file:
            bits = next(int(line[7:], 16) for line in file if line.startswith(b"CapEff:"))
    except OSError:
        return frozenset()
    return frozenset(name for name, bit in CAPABILITIES.items() if bits >> bit & 1)


def named_in(needs: str) -> frozenset[str]:
    """Return the capabilities that a text names.

    >>> sorted(named_in("CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"))
    ['CAP_DAC_READ_SEARCH', 'CAP_SYS_PTRACE']
    """
    return frozenset(word for word in needs.replace(",", " ").split() if word in CAPABILITIES)


TABLES_NEED = "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN"


def may_read_kernel() -> bool:
    """Whether trying to read page tables makes sense: without these rights no way to them opens."""
    held = effective_capabilities()
    return "CAP_SYS_ADMIN" in held or {"CAP_BPF", "CAP_PERFMON"} <= held


def invoking_user() -> tuple[int, int] | None:
    """Return the user and group that called sudo; None when sudo did not start us."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    return (int(uid), int(gid)) if os.geteuid() == 0 and uid.isdigit() and gid.isdigit() else None
