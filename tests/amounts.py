"""Programs with memory of which the kernel tells amounts: given up, pinned, in folios; for `helpers.program`."""

AREA = """
import ctypes, json, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
page = mmap.PAGESIZE
def advise(at, size, advice):
    assert libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), advice) == 0, ctypes.get_errno()
def area(size, align):
    at = libc.mmap(None, ctypes.c_size_t(size + align), 3, 0x22, -1, ctypes.c_long(0))
    return -(-at // align) * align
"""
LAZY = (
    AREA
    + """
given, kept, again = json.loads(sys.argv[1])
at = area((given + kept) * page, page)
advise(at, (given + kept) * page, 15)
ctypes.memset(at, 1, (given + kept) * page)
advise(at, given * page, 8)
if again:  # a memset of nothing may mark the page as written to
    ctypes.memset(at, 2, again * page)
print(at, flush=True)
"""
)
PINNED = (
    AREA
    + """
import struct
nr_pinned = json.loads(sys.argv[1])
at = area(2 * nr_pinned * page, page)
advise(at, 2 * nr_pinned * page, 15)
ctypes.memset(at, 1, 2 * nr_pinned * page)
ring = libc.syscall(425, 8, ctypes.create_string_buffer(120))
vector = struct.pack("QQ", at, nr_pinned * page)
done = ring >= 0 and libc.syscall(427, ring, 0, vector, 1) == 0
counted = "VmPin:\\t       0 kB" not in open("/proc/self/status").read()
print(at if done and counted else "null", flush=True)
"""
)
UNPINNED = "needs io_uring, leave to pin pages with it, and a kernel that counts those of root (Linux 7.3 does not)"
PARTIAL = (
    AREA
    + """
nr_huge, is_shared = json.loads(sys.argv[1])
huge = page * page // 8
at = area(nr_huge * huge, huge)
advise(at, nr_huge * huge, 14)
ctypes.memset(at, 1, nr_huge * huge)
import os, signal, time
if is_shared and os.fork() == 0:
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)
    time.sleep(3600)
for number in range(nr_huge):
    advise(at + number * huge + page, huge - page, 4)
advise(at, nr_huge * huge, 15)  # khugepaged is not to fill them again
print(at, flush=True)
"""
)
SMALL_FOLIOS = (
    AREA
    + """
nr_folios = json.loads(sys.argv[1])
at = area(nr_folios * 16 * page, 16 * page)
advise(at, nr_folios * 16 * page, 14)
ctypes.memset(at, 1, nr_folios * 16 * page)
print(at, flush=True)
"""
)
DROPPABLE = (
    AREA
    + """
nr_pages = json.loads(sys.argv[1])
at = libc.mmap(None, ctypes.c_size_t(nr_pages * page), 3, 0x28, -1, ctypes.c_long(0))  # DROPPABLE, ANONYMOUS
made = at != ctypes.c_void_p(-1).value
if made:
    advise(at, nr_pages * page, 15)
    ctypes.memset(at, 1, nr_pages * page)
print(at if made else "null", flush=True)
"""
)
