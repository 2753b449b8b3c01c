"""What a person would write who wants the present pages of a process as CSV: the peer of ``pages --format csv``.

    plain_pages.py PID

A page at a time: its entry, the two words of its frame, one line. Of a process of anonymous memory, in small pages of
which none is shared, the lines are those of mematlas on a machine with one node.
"""

import os
import sys

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
BLOCK = 1 << 16
NAMES = (
    *("locked", "error", "referenced", "uptodate", "dirty", "lru", "active", "slab", "writeback", "reclaim", "buddy"),
    *("mmap", "anon", "swapcache", "swapbacked", "compound_head", "compound_tail", "huge", "unevictable", "hwpoison"),
    *("nopage", "ksm", "thp", "offline", "zero_page", "idle", "pgtable"),
    *(f"bit_{bit}" for bit in range(27, 32)),
    *("reserved", "mlocked", "owner_2", "private", "private_2", "owner_private", "arch", "uncached", "softdirty"),
    *("arch_2", *(f"bit_{bit}" for bit in range(42, 64))),
)


def main(pid: int) -> None:
    """Write the line of each present page."""
    pagemap, kpagecount, kpageflags = (
        os.open(path, os.O_RDONLY) for path in (f"/proc/{pid}/pagemap", "/proc/kpagecount", "/proc/kpageflags")
    )
    names: dict[int, str] = {}
    print("address,state,pfn,phys,node,count,swap_type,swap_offset,flags,frame_flags,path")
    for start, end, path in read_vmas(pid):
        for block in range(start, end, BLOCK // 8 * PAGE_SIZE):
            size = min(BLOCK, (end - block) // PAGE_SIZE * 8)
            address = block - PAGE_SIZE
            for entry in memoryview(os.pread(pagemap, size, block // PAGE_SIZE * 8)).cast("Q"):
                address += PAGE_SIZE
                if not entry >> 63:
                    continue
                pfn = entry & (1 << 55) - 1
                count = int.from_bytes(os.pread(kpagecount, 8, pfn * 8), sys.byteorder)
                word = int.from_bytes(os.pread(kpageflags, 8, pfn * 8), sys.byteorder)
                if word not in names:
                    set_flags = [name for bit, name in enumerate(NAMES) if word >> bit & 1]
                    names[word] = " ".join(set_flags)
                flags = "present" + " exclusive" * (entry >> 56 & 1) + " file" * (entry >> 61 & 1)
                print(f"{address:#x},present,{pfn},{pfn * PAGE_SIZE:#x},0,{count},,,{flags},{names[word]},{path}")


def read_vmas(pid: int) -> list[tuple[int, int, str]]:
    """Return where the VMAs are, and what mematlas calls them."""
    vmas = []
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            fields = line.split(maxsplit=5)
            start, end = (int(word, 16) for word in fields[0].split("-"))
            path = fields[5].strip() if len(fields) > 5 else "anon"
            if start < 1 << 63:
                vmas.append((start, end, path))
    return vmas


if __name__ == "__main__":
    main(int(sys.argv[1]))
