"""The C library, for system calls that Python does not offer."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes

_libc: ctypes.CDLL | None = None


def libc() -> ctypes.CDLL:
    """Return the C library, loaded once, with errno kept for `ctypes.get_errno`."""
    global _libc
    if _libc is None:
        import ctypes

        _libc = ctypes.CDLL(None, use_errno=True)
    return _libc
