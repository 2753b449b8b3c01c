"""The C library, for system calls that Python does not offer."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes

PR_SET_PDEATHSIG = 1  # prctl(2): include/uapi/linux/prctl.h
PR_SET_VMA = 0x53564D41
PR_SET_VMA_ANON_NAME = 0

_libc: ctypes.CDLL | None = None


def libc() -> ctypes.CDLL:
    """Return the C library, loaded once, with errno kept for `ctypes.get_errno`."""
    global _libc
    if _libc is None:
        import ctypes

        _libc = ctypes.CDLL(None, use_errno=True)
    return _libc
