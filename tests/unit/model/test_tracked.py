"""Memory whose program tracks accesses, as a kernel of our own making reports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import make_process
from mematlas import Process, ProcFS
from mematlas.analysis.results import MapsResult
from mematlas.errors import NotSupported
from mematlas.kernel.maps import Vma, parse_maps
from mematlas.kernel.pagemap import EXCLUSIVE, PRESENT, UFFD_WP
from mematlas.kernel.smaps import FIELDS_USED
from mematlas.model.tracked import TrackedMemory
from mematlas.model.unsaid import Unsaid
from mematlas.observe.amounts import TRACKED_ACCESSES

PAGE = 0x1000
PLAIN, PROTECTED = PRESENT | EXCLUSIVE, PRESENT | EXCLUSIVE | UFFD_WP
TRACKS, WRITES = parse_maps([b"10000-20000 rw-p 00000000 00:00 0", b"20000-30000 rw-p 00000000 00:00 0"])


class Pagemap:
    """What `TrackedMemory` asks: the first VMA tracks accesses, and of it two pages were accessed."""

    page_size = PAGE
    process = None

    def __init__(self, is_known: bool) -> None:
        self.is_known = is_known
        self.nr_asked = 0

    def tells_accessed(self) -> bool:
        return self.is_known

    def ranges(self, start: int, end: int, any_of: int) -> list[tuple[int, int]]:
        self.nr_asked += 1
        assert any_of == 1 << 9
        return [(0x13000, 0x15000)]


@pytest.fixture(autouse=True)
def smaps(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    read: list[object] = []

    def read_vm_flags(process: object) -> dict[int, frozenset[str]]:
        read.append(process)
        return {TRACKS.start: frozenset(("rd", "ur")), WRITES.start: frozenset(("rd", "uw"))}

    monkeypatch.setattr("mematlas.kernel.smaps.read_vm_flags", read_vm_flags)
    return read


def untouched(pagemap: Pagemap, vma: Vma, *states: int) -> list[int]:
    memory = TrackedMemory(pagemap)  # type: ignore[arg-type]
    return list(memory.untouched(vma, 0x12000 if vma is TRACKS else vma.start, bytes(states)))


def test_protected_pages_that_were_not_accessed_are_untouched() -> None:
    assert untouched(Pagemap(True), TRACKS, PROTECTED, PLAIN, PLAIN, PROTECTED, 0) == [1, 0, 0, 1, 0]


def test_what_was_accessed_since_its_entry_was_read_is_not() -> None:
    assert untouched(Pagemap(True), TRACKS, PROTECTED, PROTECTED, PROTECTED, PROTECTED) == [1, 0, 0, 1]


def test_protection_from_writing_says_nothing_of_accesses() -> None:
    assert untouched(Pagemap(True), WRITES, PROTECTED, PLAIN) == [0, 0]


def test_memory_without_protection_costs_nothing(smaps: list[object]) -> None:
    pagemap = Pagemap(True)
    assert untouched(pagemap, TRACKS, PLAIN, 0, PLAIN) == [0, 0, 0]
    assert (smaps, pagemap.nr_asked) == ([], 0)


def test_a_kernel_that_does_not_know_the_category_is_asked_nothing_more(smaps: list[object]) -> None:
    pagemap = Pagemap(False)
    assert untouched(pagemap, TRACKS, PROTECTED, PROTECTED) == [0, 0]
    assert (smaps, pagemap.nr_asked) == ([], 0)


def test_smaps_that_may_not_be_read_leaves_it_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(process: object) -> None:
        raise NotSupported("smaps")

    monkeypatch.setattr("mematlas.kernel.smaps.read_vm_flags", refused)
    assert untouched(Pagemap(True), TRACKS, PROTECTED) == [0]


def maps_of_a_tracker(root: Path) -> MapsResult:
    """Return the VMAs, by smaps, of a process whose memory is tracked."""
    head = "10000-20000 rw-p 00000000 00:00 0 \n"
    fields = "".join(f"{name}: 4 kB\n" for name in sorted(FIELDS_USED))
    (make_process(root, maps=head, words={0x20: 0}) / "smaps").write_text(f"{head}{fields}VmFlags: rd wr ur \n")
    with Process(7, ProcFS(str(root), PAGE)) as process:
        return process.maps("smaps")


@pytest.mark.parametrize("answer", [None, 0, 3])
def test_accesses_are_noted_where_they_are_known(
    answer: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is not None:
        monkeypatch.setattr(Unsaid, "nr_accessed", lambda self, vma: answer)
    result = maps_of_a_tracker(tmp_path)
    assert [item.nr_accessed for item in result.vmas] == [answer]
    assert (TRACKED_ACCESSES in result.reading.notes) == (answer is not None)
