"""What we may do: our capabilities, by name.

Format: proc_pid_status(5), CapEff; capabilities(7); numbers in include/uapi/linux/capability.h.
"""

from __future__ import annotations

import os

from mematlas.errors import PermissionDenied

CAPABILITIES = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_FOWNER": 3,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
    "CAP_SYSLOG": 34,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}
"""The capabilities that open something here."""


INITIAL_USER_NAMESPACE = "user:[4026531837]"
"""PROC_USER_INIT_INO (include/linux/proc_ns.h)."""
INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO, the inode of the first PID namespace (the same file)."""


def in_user_namespace() -> bool:
    """Whether we are in a user namespace other than the first. Its root has rights over what belongs to it alone."""
    try:
        return os.readlink("/proc/thread-self/ns/user") != INITIAL_USER_NAMESPACE
    except OSError:
        return False  # a kernel without CONFIG_USER_NS


_lent: frozenset[str] | None = None


def lend(capabilities: frozenset[str]) -> None:
    """Say what may be done here by way of a broker, which has these capabilities, though we have none."""
    global _lent
    _lent = capabilities


def effective_capabilities() -> frozenset[str]:
    """Return the names, of those that matter here, of the capabilities in effect now; none where /proc is not ours.

    What they open is asked for in the first user namespace (fs/proc/task_mmu.c, pagemap_read();
    kernel/bpf; mm/madvise.c): those of another count for nothing, whatever CapEff shows.
    """
    try:
        with open("/proc/thread-self/status", "rb") as file:
            bits = next(int(line[7:], 16) for line in file if line.startswith(b"CapEff:"))
    except OSError:
        return frozenset()
    if _lent is not None:
        return _lent
    if in_user_namespace():
        return frozenset()
    return frozenset(name for name, bit in CAPABILITIES.items() if bits >> bit & 1)


TABLES_NEED = ("CAP_BPF", "CAP_PERFMON")
"""The least that opens page tables; CAP_SYS_ADMIN is in place of each (include/linux/capability.h, bpf_capable())."""


def has_rights() -> bool:
    """Whether we are root, or have any capability."""
    return os.geteuid() == 0 or bool(effective_capabilities())


def may_read_kernel() -> bool:
    """Whether trying to read page tables makes sense: without these rights no way to them opens."""
    held = effective_capabilities()
    return "CAP_SYS_ADMIN" in held or held.issuperset(TABLES_NEED)


def tables_refused(what: str) -> PermissionDenied:
    """Return the error for page tables, or what reads them, without these rights."""
    return PermissionDenied(what, *TABLES_NEED, text="CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN")


CALLERS = ("SUDO_UID", "PKEXEC_UID", "DOAS_USER")
"""Variables that say who became root, by sudo, pkexec and doas."""
NO_ID = 0xFFFFFFFF
"""(uid_t) -1, which means "leave it as it is" to system calls."""


def caller_variable() -> str | None:
    """Return the variable that says who became root; None when nothing says so, or we are not root."""
    if os.geteuid() != 0:
        return None
    return next((name for name in CALLERS if os.environ.get(name)), None)


def invoking_user() -> tuple[int, int] | None:
    """Return the user and group that became root to start us; None when there is none, or none that can be believed."""
    variable = caller_variable()
    if variable is None:
        return None
    text = os.environ[variable]
    if variable == "DOAS_USER":
        return ids_of(text)
    uid = parse_id(text)
    if uid is None:
        return None
    gid = parse_id(os.environ.get("SUDO_GID", "")) if variable == "SUDO_UID" else None
    return ids_of(uid) if gid is None else (uid, gid)


def parse_id(text: str) -> int | None:
    """Return the number of a user or group that a text is; None when it is none, or out of range.

    >>> parse_id("1000"), parse_id("²"), parse_id("4294967295"), parse_id("-1")
    (1000, None, None, None)
    """
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(NO_ID))
    return int(text) if is_number and int(text) < NO_ID else None


def ids_of(user: int | str) -> tuple[int, int] | None:
    """Return the number and the group of a user that exists here."""
    import pwd

    try:
        account = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except (KeyError, ValueError):  # a name may hold what no name can
        return None
    return account.pw_uid, account.pw_gid


def become(uid: int, gid: int) -> None:
    """Be a user, with that one's groups. Needs CAP_SETUID and CAP_SETGID."""
    import pwd

    try:
        os.initgroups(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def user_name(uid: int) -> str:
    """Return the name of a user; the number where nobody here has it."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)
