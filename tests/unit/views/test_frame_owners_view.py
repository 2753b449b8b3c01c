"""Who has frames, compared whole, on a narrow screen and on one that is wide enough for all."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from helpers import parse_line
from mematlas.analysis.frame_owners import NO_DETAIL, FrameDetail, FrameMapper, FrameOwners, OwnedFrames
from mematlas.analysis.results import Reading
from mematlas.notes import Note
from mematlas.views.frame_owners import owners_table
from mematlas.views.frames import table_of
from mematlas.views.writers import write

EXPECTED = Path(__file__).parent / "expected"
PAGE = 4096
LIBRARY = parse_line(b"7f0ad6400000-7f0ad6600000 r-xp 00022000 fe:00 31 /usr/lib/x86_64-linux-gnu/libc.so.6")
HEAP = parse_line(b"55d0c1a2f000-55d0c1b2f000 rw-p 00000000 00:00 0 [heap]")
NAMELESS = parse_line(b"7f1000000000-7f1008000000 rw-p 00000000 00:00 0")
NAUGHTY = parse_line(b"7f2000000000-7f2000001000 rw-s 00001000 fe:00 33 /tmp/a\x1b[2J\xff")


def owned(
    pfn: int,
    kind: str,
    mapper: FrameMapper | None = None,
    address: int | None = None,
    *,
    count: int = 0,
    nr_pages: int = 1,
    detail: FrameDetail = NO_DETAIL,
) -> OwnedFrames:
    return OwnedFrames(
        pfn=pfn,
        nr_pages=nr_pages,
        kind=kind,
        flags=("uptodate", "lru"),
        count=count,
        node=0,
        cgroup="/shop" if mapper else None,
        cgroup_inode=4211 if mapper else 0,
        mapper=mapper,
        address=address,
        detail=detail,
    )


RESULT = FrameOwners(
    items=(
        owned(4096, "reserved"),
        owned(4660, "file", FrameMapper(5000, "shop", 7, LIBRARY), LIBRARY.start + 2 * PAGE, count=2, nr_pages=16),
        owned(4660, "file", FrameMapper(5004, "postgres\x1b", 8, LIBRARY), LIBRARY.start + 2 * PAGE, count=2),
        owned(5000, "anon", FrameMapper(5000, "shop", 7, HEAP), HEAP.start, count=1),
        owned(5001, "anon", FrameMapper(5000, "shop", 7, NAMELESS), NAMELESS.start, count=1, nr_pages=512),
        owned(6000, "shmem", FrameMapper(5000, "shop", 7, NAUGHTY), NAUGHTY.start, count=1),
        owned(6001, "shmem", count=3),
        owned(7000, "table", FrameMapper(5000, "shop", 7, level="pte"), 0x55D0C1A00000),
        owned(7001, "table"),
        owned(8000, "free", nr_pages=3, detail=FrameDetail(block=7680, order=9)),
        owned(8100, "slab", detail=FrameDetail(slab="ext4_inode_cache")),
        owned(8200, "file", detail=FrameDetail(file=("fe:00", 31), file_offset=0x77000)),
        owned(8205, "file", detail=FrameDetail(file=("fe:00", 32), file_offset=0, path="/srv/a\x1b", is_deleted=True)),
        owned(8201, "kernel"),
        owned(8202, "zero"),
    ),
    page_size=PAGE,
    nr_missing=2,
    sharing={},
    reading=Reading(source="pagemap", duration_s=0.25, torn=False, notes=(Note("zero-page", "the zero page"),)),
)


@pytest.mark.parametrize("width", [80, 0])
def test_text_stands_as_it_was_looked_at(width: int) -> None:
    lines = list(owners_table(RESULT).lines(width=width))
    path = EXPECTED / f"owner-{width or 'wide'}.txt"
    text = "\n".join([*lines, ""])
    if "MEMATLAS_RECORD" in os.environ:
        path.write_text(text)

    assert text == path.read_text()
    assert not width or max(map(len, lines)) <= width


@pytest.mark.parametrize("width", range(60, 181, 13))
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    lines = list(owners_table(RESULT).lines(width=width))

    assert [line for line in lines if len(line) > width] == []
    assert all(line.isprintable() for line in lines)


def test_json_has_what_is_known_apart_and_null_for_the_rest() -> None:
    out = io.StringIO()
    write(owners_table(RESULT), "json", out, {})
    result = json.loads(out.getvalue())
    rows = result["rows"]

    assert result["schema"] == "mematlas.owner/1"
    assert [note["code"] for note in result["notes"]] == ["zero-page", "no-such-frames"]
    assert (rows[1]["pfn"], rows[1]["phys"], rows[1]["file_offset"]) == (4660, "0x1234000", "0x24000")
    assert (rows[1]["dev"], rows[1]["inode"], rows[1]["path"]) == ("fe:00", 31, LIBRARY.path)
    assert (rows[4]["path"], rows[4]["file_offset"], rows[4]["nr_pages"]) == (None, None, 512)
    assert (rows[7]["pid"], rows[7]["level"], rows[7]["vma"]) == (5000, "pte", None)
    assert (rows[9]["block"], rows[9]["order"], rows[9]["pid"]) == (7680, 9, None)
    assert (rows[12]["path"], rows[12]["deleted"], rows[11]["path"]) == ("/srv/a\x1b", True, None)
    assert (rows[10]["slab"], rows[11]["inode"], rows[11]["dev"]) == ("ext4_inode_cache", 31, "fe:00")


def test_rows_beyond_the_limit_are_counted() -> None:
    table = owners_table(RESULT, 3)

    assert len(table.items) == 3
    assert any(note.text == "12 of 15 rows are left out (--limit)" for note in table.notes)


def test_frames_are_rows_of_other_libraries_too() -> None:
    assert len(table_of(RESULT).items) == len(RESULT) == len(list(RESULT))
    assert "<table>" in RESULT._repr_html_()
