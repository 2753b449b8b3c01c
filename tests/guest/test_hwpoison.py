"""A page whose memory went bad: an entry of its own kind, neither present nor swap."""

from __future__ import annotations

import json
import mmap
import os

import pytest

from helpers import program, read_smaps
from inside import Facts
from mematlas import Process
from mematlas.cli import main
from mematlas.model.pagetables.swap_types import NEWEST_KNOWN
from mematlas.words import Source

pytestmark = pytest.mark.guest

PAGE = mmap.PAGESIZE
BAD = 3
NR_PAGES = 9

# The signal tells the process of it; that it has a handler keeps it alive.
POISONED = f"""
import ctypes, json, mmap, signal, sys
signal.signal(signal.SIGBUS, lambda *_: None)
libc = ctypes.CDLL(None, use_errno=True)
area = mmap.mmap(-1, {NR_PAGES * PAGE}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(15)
for page in range({NR_PAGES}):
    area[page * {PAGE}] = 1
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
failed = libc.madvise(ctypes.c_void_p(address + {BAD * PAGE}), ctypes.c_size_t({PAGE}), 100)  # MADV_HWPOISON
print(json.dumps([address, failed and ctypes.get_errno()]), flush=True)
"""


def test_a_poisoned_page_is_neither_present_nor_swap(facts: Facts, capsys: pytest.CaptureFixture[str]) -> None:
    with program(POISONED) as target:
        address, error = target.told
        assert error == 0
        with Process(target.pid) as process:
            found = process.translate(range(address, address + NR_PAGES * PAGE, PAGE))
            assert [each.state for each in found] == ["special" if page == BAD else "present" for page in range(9)]
            sources: tuple[Source, ...] = ("pagemap", "tables") if facts.has_tables else ("pagemap",)
            for source in sources:
                usage = next(item for item in process.maps(source).vmas if item.vma.start == address).usage
                assert (usage.rss, usage.swap) == (8 * PAGE, 0)
            # What the kernel counts in smaps is another matter: is_pfn_swap_entry() of smaps_pte_entry() has it in Rss.
            smaps = read_smaps(target.pid)[address]
            assert (smaps["Rss"] in (8 * PAGE, 9 * PAGE), smaps["Swap"]) == (True, 0)
        if not facts.has_tables:
            return
        capsys.readouterr()
        assert main(["tables", str(target.pid), hex(address + BAD * PAGE), "--json"]) == 0
        last = json.loads(capsys.readouterr().out)["rows"][-1]
        # On a kernel newer than those looked at it may be another swap type, and is not guessed.
        is_known = tuple(map(int, os.uname().release.split(".")[:2])) <= NEWEST_KNOWN
        state = "hwpoison" if is_known else last["state"]
        assert (last["level"], last["state"], last["agrees"]) == ("pte", state, True)
        assert state in ("hwpoison", "unknown")
        assert main(["tables", str(target.pid), "--verify"]) == 0
