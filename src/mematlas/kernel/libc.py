"""The C library, for system calls that Python does not offer."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # prctl(2): include/uapi/linux/prctl.h
PR_SET_VMA = 0x53564D41
PR_SET_VMA_ANON_NAME = 0
M_MMAP_THRESHOLD = -3  # mallopt(3): malloc.h

_libc: ctypes.CDLL | None = None


def libc() -> ctypes.CDLL:
    """Return the C library, loaded once, with errno kept for `ctypes.get_errno`."""
    global _libc
    if _libc is None:
        import ctypes

        _libc = ctypes.CDLL(None, use_errno=True)
    return _libc


def plain_function(name: str) -> Callable[..., int]:
    """Return a function of the C library that takes numbers as long as an int, and bytes, and returns an int.

    Without ctypes, which takes as long to import as all that a light command imports of ours.

    >>> plain_function("strlen")(b"seven")
    5
    """
    import _ctypes

    class Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
        _type_ = "i"

    class Function(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
        _restype_ = Int

    function: Callable[..., int] = Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), name))  # type: ignore[arg-type]
    return function


def plain_errno() -> int:
    """Return why the last `plain_function` of this thread has failed."""
    import _ctypes

    return _ctypes.get_errno()


def at_address(data: bytes) -> tuple[int, object]:
    """Return where bytes lie as long as the object beside it is held."""
    import _ctypes

    class Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]
        _type_ = "c"

    held = (Byte * len(data)).from_buffer_copy(data)
    return _ctypes.addressof(held), held


def give_back_memory(size: int = 1 << 20) -> None:
    """Have memory of so many bytes or more be given back to the kernel as soon as it is freed.

    glibc takes larger and larger ones from its heap as soon as one was freed, where they lie between what is in use
    (``M_MMAP_THRESHOLD``, mallopt(3)). Other C libraries do not, and have nothing of the kind.
    """
    try:
        plain_function("mallopt")(M_MMAP_THRESHOLD, size)
    except OSError:
        pass  # musl
