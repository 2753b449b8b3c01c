"""States of pages, and the readers' marks, on processes made of files; the live ones are in live/."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import PAGE, make_process, no_scan, parse_line, texts, write_words
from mematlas import Process
from mematlas.analysis.page_filter import PageFilter
from mematlas.kernel.pagemap import PM_PFRAME, Scanner
from mematlas.kernel.procfs import ProcFS
from mematlas.model.entry_flags import entry_flags
from mematlas.model.page_source import pieces
from mematlas.model.pages import (
    STATE_OF_BYTE,
    STATES,
    Hole,
    PageReader,
    decode_place,
    is_zero_candidate,
    state_of,
)
from mematlas.observe.page_list import PageList
from victim import Victim

Start = Callable[..., Victim]
ANON = parse_line(b"0-20000000 rw-p 00000000 00:00 0 ")


@pytest.mark.parametrize(
    ("byte", "state"),
    [
        (0x00, "absent"),
        (0x80, "present"),
        (0x81, "present"),
        (0xA1, "present"),
        (0x83, "present"),
        (0x88, "zero"),
        (0xA8, "zero"),
        (0x40, "swapped"),
        (0x60, "swapped"),
        (0x44, "guard"),
        (0x4C, "guard"),
        (0x48, "special"),
        (0x08, "swapped"),
        (0x10, "cached"),
        (0x18, "unknown"),
    ],
)
def test_byte_says_one_state(byte: int, state: str) -> None:
    assert (state_of(byte), STATE_OF_BYTE[byte]) == (state, state)


def test_every_byte_has_a_state() -> None:
    assert set(STATE_OF_BYTE) == set(STATES)


def test_zero_page_is_looked_for_where_it_can_be() -> None:
    assert is_zero_candidate(0x80, anon=False)
    assert is_zero_candidate(0xA0, anon=True)  # the huge one has the file bit
    assert not is_zero_candidate(0xA0, anon=False)
    assert not is_zero_candidate(0x81, anon=True)
    assert not is_zero_candidate(0x40, anon=True)


@pytest.mark.parametrize("page_size", [4096, 65536])
def test_frames_flags_tell_zero_pages_on_older_kernels(page_size: int, tmp_path: Path) -> None:
    present = 1 << 63
    make_process(tmp_path, words={3: present | 5, 4: present | 6, 5: present | 1 << 56 | 7, 8: 0})
    write_words(tmp_path / "kpageflags", {5: 1 << 24 | 1 << 32, 6: 1 << 12, 7: 0, 8: 0})

    with ProcFS(str(tmp_path), page_size).process(7) as process, PageReader(process) as reader:
        (block,) = reader.blocks(ANON, 2 * page_size, 8 * page_size)
        states = [STATE_OF_BYTE[byte] for byte in block.states]
    assert states == ["absent", "zero", "present", "present", "absent", "absent"]
    assert reader.zero_known


@pytest.mark.parametrize("why", ["no kpageflags", "hidden frames"])
def test_zero_pages_are_unknown_when_nothing_tells(why: str, tmp_path: Path) -> None:
    hidden = why == "hidden frames"
    make_process(tmp_path, words={3: 1 << 63 | (0 if hidden else 5)})
    if hidden:
        write_words(tmp_path / "kpageflags", {5: 1 << 24})

    with ProcFS(str(tmp_path), PAGE).process(7) as process, PageReader(process) as reader:
        assert [block.states[-1] for block in reader.blocks(ANON, 0, 4 * PAGE)] == [0x80]
    assert not reader.zero_known


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("kind", ["zero", "huge_zero", "anon", "private_file"])
def test_older_kernels_find_the_same_zero_pages(kind: str, victim: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    area = victim(kind)[kind]
    monkeypatch.setattr(Scanner, "_call", no_scan)

    with Process(area.pid) as process:
        found = process.translate([area.page_address(page) for page in range(area.nr_pages)])
    assert [one.state for one in found] == ["present" if state == "shared" else state for state in area.states]


@pytest.mark.root
def test_older_kernels_leave_zero_pages_unknown_to_those_without_rights(
    victim: Start, as_nobody: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    area = victim("zero", uid=65534)["zero"]
    monkeypatch.setattr(Scanner, "_call", no_scan)

    def look() -> list[tuple[object, ...]]:
        with Process(area.pid) as process:
            results = [process.maps(source) for source in ("smaps", "pagemap")]
        found = [next(item for item in result.vmas if item.vma.start == area.address) for result in results]
        return [
            (item.usage.zero, item.usage.uss, texts(result.reading.notes))
            for item, result in zip(found, results, strict=True)
        ]

    outcome = as_nobody(look)
    for zero, uss, notes in outcome.value:
        assert (zero, uss) == (None, area.nr_exclusive * area.page_size)
        assert any("zero pages cannot be distinguished" in note for note in notes)


@pytest.mark.parametrize("page_size", [4096, 65536])
def test_pieces_cover_every_page_once(page_size: int, tmp_path: Path) -> None:
    words = {page: 1 << 63 | 1 << 56 | page for page in (1, 2, 700, 9000, 30001)}
    make_process(tmp_path, words=words | {40000: 0})

    with ProcFS(str(tmp_path), page_size).process(7) as process, PageReader(process) as reader:
        vma = parse_line(b"0-%x rw-p 0 00:00 0" % (40000 * page_size))
        at = 0
        present = []
        for piece in pieces(reader, vma, 0, vma.end):
            assert piece.address == at
            if not isinstance(piece, Hole):
                present += [at // page_size + place for place, byte in enumerate(piece.states) if byte]
            at += len(piece) * page_size
    assert (at, present) == (vma.end, [1, 2, 700, 9000, 30001])


def test_kernels_own_pages_are_unknown_not_absent() -> None:
    with Process(os.getpid()) as process:
        for vma in process.address_space().vmas:
            if vma.kind in ("vvar", "vsyscall"):
                pieces = [piece for _, piece in process.pages(vma.start, vma.end)]
                states = [STATE_OF_BYTE[piece.byte] for piece in pieces if isinstance(piece, Hole)]
                assert set(states) <= {"unknown"}
                if vma.kind == "vsyscall":
                    assert states
                # Linux 7.3 has the pages of [vvar] as any others, and pagemap shows them.
                shown = [byte for piece in pieces if not isinstance(piece, Hole) for byte in piece.states]
                assert {STATE_OF_BYTE[byte] for byte in shown} <= {"present", "unknown", "absent"}


def test_frame_or_slot_is_read_from_the_entry_that_has_one() -> None:
    assert decode_place(0x81, 1 << 63 | 0x1234) == (0x1234, None, None)
    assert decode_place(0x80, 1 << 63) == (None, None, None)
    assert decode_place(0x40, 1 << 62 | 77 << 5 | 3) == (None, 3, 77)
    assert decode_place(0x44, 1 << 62 | 1 << 58 | 0x9F) == (None, None, None)
    assert decode_place(0x08, 0) == (None, None, None)
    assert decode_place(0x81, 1 << 63 | PM_PFRAME)[0] == PM_PFRAME


def test_flags_are_the_bits_by_name() -> None:
    every = 1 << 63 | 1 << 56 | 1 << 55 | 1 << 57 | 1 << 61
    assert entry_flags(0xA3, every) == ("present", "exclusive", "soft-dirty", "uffd-wp", "file")
    assert entry_flags(0x88, 1 << 63) == ("present", "zero")
    assert entry_flags(0x44, 1 << 62 | 1 << 58) == ("swap", "guard")


def test_range_that_ends_within_a_page_takes_it_whole() -> None:
    with Process(os.getpid()) as process:
        stack = next(vma for vma in process.address_space().vmas if vma.kind == "stack")
        pieces = [piece for _, piece in process.pages(stack.end - PAGE - 1, stack.end - PAGE + 1)]
    assert sum(map(len, pieces)) == 2
    assert pieces[0].address == stack.end - 2 * PAGE


def test_what_is_mapped_of_the_first_system_v_segment_has_a_place_in_it(tmp_path: Path) -> None:
    """Its identifier, and so its inode, is 0, as that of memory without a file."""
    maps = "10000-12000 rw-s 00001000 00:01 0 /SYSV00000000 (deleted)\n20000-21000 rw-p 00000000 00:00 0 \n"
    make_process(tmp_path, maps=maps, words={0x20: 0})
    with Process(7, ProcFS(str(tmp_path), 4096)) as process:
        assert [each.file_offset for each in process.translate([0x11005, 0x20005])] == [0x2005, None]


def test_soft_dirty_is_said_of_pages_and_not_of_holes(tmp_path: Path) -> None:
    """A new VMA has the bit in all its entries, of which those of holes are not even read."""
    nr_pages, dirty = 4096, 1 << 55
    words = dict.fromkeys(range(nr_pages), dirty) | {3: 1 << 63 | dirty | 77, 4: 1 << 63 | 78, 5: 1 << 62 | dirty}
    make_process(tmp_path, maps=f"0-{nr_pages * PAGE:x} rw-p 00000000 00:00 0 \n", words=words)
    with Process(7, ProcFS(str(tmp_path), PAGE)) as process:
        listed = PageList(process, process.pages())
        runs = [(run.start // PAGE, run.nr_pages, run.state, run.flags) for runs in listed.runs() for run in runs]
        listed = PageList(process, process.pages(), PageFilter(soft_dirty=True))
        selected = [address // PAGE for batch in listed.batches() for address in batch.addresses]
        flags = [each.flags for each in process.translate([0, 3 * PAGE, 5 * PAGE, 4000 * PAGE])]
    assert runs == [
        (0, 3, "absent", ()),
        (3, 1, "present", ("present", "soft-dirty")),
        (4, 1, "present", ("present",)),
        (5, 1, "swapped", ("swap", "soft-dirty")),
        (6, nr_pages - 6, "absent", ()),
    ]
    assert selected == [3, 5]
    assert flags == [(), ("present", "soft-dirty"), ("swap", "soft-dirty"), ()]
