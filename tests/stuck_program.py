"""A process of which nobody can read maps, smaps or the command line: its mmap lock is held by a dead file system.

Started by `stuck.Stuck`, as root. It speaks the FUSE protocol itself (include/uapi/linux/fuse.h), on a mount in a mount
namespace of its own: nobody else meets it, and it is gone with us. The file system answers everything but the reading
of one page. Two ways lead to the lock:

- ``fault``: somebody reads that page through /proc/PID/mem, and waits with the lock held for reading. A thread that
  wants to map something waits for it to be free, and every later reader waits behind that.
- ``map``: a thread reads the page. Another maps the same file through a descriptor without a page cache, which
  waits for that page, with the lock held for writing (fs/fuse/file.c, fuse_file_mmap()).

A third, ``server``, leaves the lock alone: once a page of the file is mapped and the mount is gone, or with ``mounted``
while it is there, the server answers nothing at all.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import sys
import threading
import time

CLONE_NEWNS = 0x20000
MS_REC_PRIVATE = 0x4000 | 0x40000
MS_NOSUID_NODEV = 2 | 4
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
PAGE = mmap.PAGESIZE
NR_PAGES = 16
STUCK_PAGE = 4
MADV_RANDOM = 1

LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, OPENDIR, INTERRUPT, BATCH_FORGET = (
    *(1, 2, 3, 14, 15, 18, 25, 26, 27, 36, 42),
)
SERVER_WAYS = ("server", "mounted")
MNT_DETACH = 2
NO_ANSWER = (FORGET, INTERRUPT, BATCH_FORGET)
FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE = 1, 2
ENOSYS = 38
ROOT, FILE = 1, 2

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def attributes(node: int) -> bytes:
    mode, size = (0o040755, 0) if node == ROOT else (0o100644, NR_PAGES * PAGE)
    # ino size blocks atime mtime ctime (each 64 bits), their nanoseconds, mode nlink uid gid rdev blksize flags
    return struct.pack("6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, PAGE, 0)


def serve(device: int, is_mute: bool) -> None:
    nr_opened = 0
    valid = 0 if is_mute else 100
    has_read = False
    while True:
        try:
            request = os.read(device, 1 << 17)
        except OSError:
            return
        _, opcode, unique, node = struct.unpack_from("IIQQ", request)
        if is_mute and has_read and opcode != RELEASE:
            continue
        body = request[40:]
        error, answer = 0, b""
        if opcode == INIT:
            answer = struct.pack("IIIIHHII", 7, 31, 0, 0, 12, 9, 1 << 16, 1).ljust(64, b"\0")
        elif opcode == LOOKUP:
            answer = struct.pack("QQQQII", FILE, 0, 100, valid, 0, 0) + attributes(FILE)
        elif opcode == GETATTR:
            answer = struct.pack("QII", valid, 0, 0) + attributes(node)
        elif opcode in (OPEN, OPENDIR):
            nr_opened += opcode == OPEN
            answer = struct.pack("QII", 1, FOPEN_KEEP_CACHE if nr_opened < 2 else FOPEN_DIRECT_IO, 0)
        elif opcode == READ:
            _, offset, size = struct.unpack_from("QQI", body)
            if offset + size > STUCK_PAGE * PAGE:
                continue
            answer = b"x" * size
            has_read = True
        elif opcode in NO_ANSWER:
            continue
        elif opcode not in (FLUSH, RELEASE):
            error = -ENOSYS
        os.write(device, struct.pack("IiQ", 16 + len(answer), error, unique) + answer)


def end_with_parent() -> None:
    checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))


def wait_for(tid: int) -> None:
    """Wait until a thread waits for the file system."""
    while True:
        # Linux 5.10 shows a 0 for where anybody waits, and the stack of who does.
        for name in ("wchan", "stack"):
            try:
                with open(f"/proc/{tid}/{name}") as file:
                    if "request_wait_answer" in file.read():
                        return
            except FileNotFoundError:
                pass  # needs CONFIG_STACKTRACE
        time.sleep(0.01)


def be_target(way: str, path: str, size: int) -> None:
    end_with_parent()
    file = os.open(path, os.O_RDONLY)
    area = mmap.mmap(file, NR_PAGES * PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    area.madvise(MADV_RANDOM)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    own = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place in range(0, size, PAGE):
        own[place] = 1
    if way in SERVER_WAYS:
        assert area[0] == ord("x")
        if way == "server":
            checked(libc.umount2(os.path.dirname(path).encode(), MNT_DETACH))
        os.write(1, f"{os.getpid()}\n".encode())
        signal.pause()
    # The last words: what comes now may stop at any line.
    os.write(1, f"{os.getpid()}\n".encode())
    if way == "map":
        direct = os.open(path, os.O_RDONLY)
        threading.Thread(target=os.pread, args=(file, PAGE, STUCK_PAGE * PAGE), daemon=True).start()
        wait_for(max(map(int, os.listdir("/proc/self/task"))))
        mmap.mmap(direct, PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ)
    else:
        reader = os.fork()
        if reader == 0:
            # Another process: a fault of our own would let go of the lock while it waits.
            end_with_parent()
            checked(libc.prctl(PR_SET_NAME, b"reader", 0, 0, 0))
            os.pread(os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY), 1, address + STUCK_PAGE * PAGE)
            os._exit(0)
        wait_for(reader)
        mmap.mmap(-1, PAGE)


def main() -> None:
    way, directory, size, name = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    checked(libc.unshare(CLONE_NEWNS))
    checked(libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None))
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    checked(libc.mount(b"stuck", directory.encode(), b"fuse", MS_NOSUID_NODEV, options))
    if os.fork() == 0:
        os.close(device)
        checked(libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0))
        be_target(way, f"{directory}/file", size)
        os._exit(0)
    # The last descriptor of the device: as soon as we end, whoever waits for the file system gets an error.
    serve(device, way in SERVER_WAYS)


main()
