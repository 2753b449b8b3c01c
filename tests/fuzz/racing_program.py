"""A process that changes everything it can, for some hundredths of a second, then ends or becomes itself again."""

import ctypes
import os
import random
import signal
import sys
import threading
import time

PAGE = os.sysconf("SC_PAGESIZE")
ANON = 0x22
PR_SET_NAME = 15
PR_SET_DUMPABLE = 4
PR_SET_VMA = 0x53564D41
SYS_EXIT = {"x86_64": 60}.get(os.uname().machine, 93)
NAMES = (b"racing-victim", b"\x1b[2J\x07", b"a\nb", b") R 1 1 (", b"\xff\xfe", b"", b"\xe2\x80\xae")

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
for call in (libc.mprotect, libc.madvise):
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 3, ctypes.c_char_p]


def churn(end: float) -> None:
    """Map memory, change it, and let it go."""
    while time.monotonic() < end:
        size = random.randint(2, 64) * PAGE
        area = libc.mmap(None, size, 3, ANON, -1, 0)
        ctypes.memset(area, 1, size // 2)
        libc.prctl(PR_SET_VMA, 0, area, size, random.choice(NAMES))
        libc.mprotect(area + PAGE, PAGE, random.choice((0, 1, 5)))
        libc.madvise(area, PAGE, random.choice((4, 21)))
        area = libc.mremap(area, PAGE, 3 * PAGE, 1)
        libc.munmap(area, PAGE)


def names(end: float) -> None:
    """Change the name, fork, and let each child end."""
    while time.monotonic() < end:
        libc.prctl(PR_SET_NAME, 0, 0, 0, None)
        ctypes.CDLL(None).prctl(PR_SET_NAME, random.choice(NAMES))
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def main() -> None:
    end = time.monotonic() + random.uniform(0, 0.08)
    for work in (churn, churn, names):
        threading.Thread(target=work, args=(end,), daemon=True).start()
    ending = random.choice(("exec", "exec", "exit", "user", "leader", "kill", "hidden"))
    if ending == "user" and os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    elif ending == "hidden":
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, None)
    elif ending == "leader":
        libc.syscall(SYS_EXIT, 0)  # the first thread alone: the others go on
    while time.monotonic() < end:
        time.sleep(0.002)
    if ending == "exec":
        os.execv(sys.executable, [sys.executable, "-I", "-S", *sys.argv])
    if ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)


main()
