"""Frames of this machine by their flags: as a plain loop over kpageflags finds them, and frames of our own."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from conftest import Outcome
from helpers import steadily
from mematlas import Machine
from mematlas.errors import PermissionDenied
from mematlas.kernel.kpage import KPF_NAMES
from mematlas.kernel.memory.ownpages import OwnPages, address_of
from mematlas.kernel.procfs import ProcFS
from mematlas.observe.frames import ram_spans

pytestmark = pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")

NR_PAGES = 211
BITS = {name: bit for bit, name in KPF_NAMES.items()}


def words_of(first: int, end: int) -> memoryview:
    """Return words of kpageflags, read here: the oracle."""
    with open("/proc/kpageflags", "rb", buffering=0) as file:
        file.seek(first * 8)
        data = b"".join(iter(lambda: file.read(min(1 << 20, end * 8 - file.tell())), b""))
    return memoryview(data).cast("Q")


def told(words: memoryview) -> Counter[int]:
    """Count words; of slabs ``anon`` and ``ksm`` are no flags: other fields of theirs lie there."""
    false = 1 << BITS["anon"] | 1 << BITS["ksm"]
    return Counter(word & ~false if word >> BITS["slab"] & 1 else word for word in words)


def test_no_slab_is_called_anonymous() -> None:
    assert Machine().list_frames("slab,anon").count().nr_frames == 0
    assert Machine().list_frames("slab,ksm").count().nr_frames == 0


@steadily
def test_combinations_of_flags_are_those_that_a_plain_loop_counts() -> None:
    first, end = max(ram_spans(ProcFS())[0], key=lambda span: span[1] - span[0])
    end = min(end, first + (1 << 18))
    before = told(words_of(first, end))
    ours = Machine().list_frames(spans=[(first, end)]).count()
    after = told(words_of(first, end))
    by_flags = {use.flags: use.nr_pages for use in ours.uses}
    assert sum(by_flags.values()) == end - first
    for word, nr in before.items():
        if min(nr, after[word]) > 100:
            names = tuple(KPF_NAMES.get(bit, f"bit_{bit}") for bit in range(64) if word >> bit & 1)
            low, high = sorted((nr, after[word]))
            assert low - high // 20 <= by_flags[names] <= high + high // 20, names


def test_reserved_frames_are_those_that_have_the_flag() -> None:
    first, end = ram_spans(ProcFS())[0][0]
    expected = {first + at for at, word in enumerate(words_of(first, end)) if word >> BITS["reserved"] & 1}
    listed = Machine().list_frames("reserved", [(first, end)])
    runs = [pair for rows in listed.runs() for pair in zip(rows.pfns, rows.nr_pages, strict=True)]
    assert {pfn for low, nr in runs for pfn in range(low, low + nr)} == expected
    assert {pfn for rows in listed.batches() for pfn in rows.pfns} == expected


def own_frames(area: mmap.mmap) -> list[int]:
    with OwnPages(ProcFS()) as own:
        return own.pfns_at([address_of(area) + at for at in range(0, len(area), mmap.PAGESIZE)])


def test_our_own_pages_are_found_by_what_they_are() -> None:
    with mmap.mmap(-1, NR_PAGES * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_NOHUGEPAGE)
        area[:] = b"x" * len(area)
        pfns = own_frames(area)
        spans = [(pfn, pfn + 1) for pfn in pfns]
        batches = list(Machine().list_frames("anon,!compound", spans).batches())
        assert [pfn for rows in batches for pfn in rows.pfns] == sorted(pfns)
        assert {count for rows in batches for count in rows.counts} == {1}
        assert {kind for rows in batches for kind in rows.kinds} == {"anon"}
        assert Machine().list_frames("!anon", spans).count().nr_frames == 0


def test_shared_memory_of_ours_is_shmem() -> None:
    with mmap.mmap(-1, NR_PAGES * mmap.PAGESIZE) as area:
        area[:] = b"x" * len(area)
        spans = [(pfn, pfn + 1) for pfn in own_frames(area)]
        assert Machine().list_frames("shmem,swapbacked", spans).count().nr_frames == NR_PAGES


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mematlas", *words], capture_output=True, text=True, timeout=120)


def test_a_list_for_programs_has_numbers_and_names() -> None:
    result = run("ram", "--list", "--flags", "reserved", "--limit", "3", "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["schema"] == "mematlas.ram-list/1"
    assert [int(row["phys"], 16) for row in answer["rows"]] == [row["pfn"] * mmap.PAGESIZE for row in answer["rows"]]
    assert all("reserved" in row["flags"] for row in answer["rows"])
    assert answer["target"]["nr_pages"] == 3


def test_all_flags_are_of_all_frames_that_exist() -> None:
    answer = json.loads(run("ram", "--by", "flags", "--json").stdout)
    online, offline = ram_spans(ProcFS())
    assert answer["total"]["nr_pages"] == sum(end - first for first, end in (*online, *offline))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--flags", "dirtty"], 2, "did you mean dirty?"),
        (["--flags", "lru", "--by", "node"], 2, "not with --by node"),
        (["--list", "--runs"], 2, "one at a time"),
        (["--list", "--source", "structs"], 2, "kpageflags"),
        (["--range", "pfn:1"], 2, "--range needs"),
        (["--list", "--range", "123"], 2, "pfn:123"),
        (["--list", "--range", "pfn:0xfffffffffff"], 3, "no such frames"),
    ],
)
def test_what_cannot_be_is_refused_in_words(words: list[str], code: int, said: str) -> None:
    result = run("ram", *words)
    assert (result.returncode, result.stdout) == (code, "")
    assert said in result.stderr


def test_without_rights_it_is_refused(as_nobody: Callable[..., Outcome]) -> None:
    def look() -> str:
        try:
            Machine().list_frames("anon")
        except PermissionDenied as error:
            return str(error)
        return ""

    assert "kpageflags: permission denied (needs CAP_DAC_READ_SEARCH)" in as_nobody(look).value
