"""Fields of smaps, and its sums with and without smaps_rollup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import PAGE, make_process, program, sparse, steadily
from mematlas import Process
from mematlas.errors import FormatError
from mematlas.kernel import smaps
from mematlas.kernel.maps import Vma, parse_maps, read_mark
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.smaps import (
    FIELDS_USED,
    MAX_LINES,
    LastTexts,
    SmapsParser,
    SmapsReader,
    leaves_out_huge_pages,
    parse_smaps,
    read_smaps,
    sum_fields,
)
from mematlas.kernel.smaps_rollup import read_rollup
from mematlas.kernel.vmfile import NO_DEVICES
from victim import Victim

TEXT = b"""\
7f0000000000-7f0000003000 rw-p 00000000 00:00 0 
Size:                 12 kB
KernelPageSize:        4 kB
Rss:                   8 kB
Pss:                   6 kB
Private_Dirty:         4 kB
THPeligible:           0
VmFlags: rd wr mr mw me ac sd 
7f0000003000-7f0000004000 r--p 00001000 fe:00 9  /tmp/Rss: 5 kB
Size:                  4 kB
Rss:                   4 kB
Pss:                   1 kB
NewField:              3 kB
"""  # noqa: W291


MAPS = "7f0000000000-7f0000003000 rw-p 00000000 00:00 0\n"


def test_memory_whose_accesses_are_tracked_is_known_by_its_flags() -> None:
    head = b"%x-%x rw-p 00000000 00:00 0 %s\n"
    fields = b"".join(b"%s: 4 kB\n" % name.encode() for name in sorted(FIELDS_USED))
    flags = {0x1000: b"rd wr ac sd", 0x3000: b"rd wr ur sd", 0x5000: b"rd wr ", 0x7000: b"ur"}
    text = b"".join(
        head % (start, start + 0x1000, b"/tmp/a ur b") + fields + b"VmFlags: %s\n" % its for start, its in flags.items()
    )
    lines = text.removesuffix(b"\n").split(b"\n")
    for cut in (len(lines), 3, len(lines) - 1):
        parser = SmapsParser(NO_DEVICES, 9, captured=False)
        pieces = [b"\n".join(part) for part in (lines[:cut], lines[cut:]) if part]
        assert len(list(chain.from_iterable(parser.batches(pieces)))) == 4
        assert parser.tracked == {0x3000, 0x7000}


def whole(text: bytes) -> bytes:
    """Return the text with the fields that each of its VMAs still lacks."""
    heads = [place for place, line in enumerate(text.split(b"\n")) if line.startswith(b"7f")]
    lines = text.split(b"\n")
    for start, end in reversed(list(zip(heads, [*heads[1:], len(lines) - 1], strict=True))):
        held = {line.partition(b":")[0].decode() for line in lines[start:end]}
        lines[end:end] = [f"{name}: 4 kB".encode() for name in sorted(FIELDS_USED - held)]
    return b"\n".join(lines)


def test_fields_are_bytes_under_the_kernels_names() -> None:
    (_, first), (second_vma, second) = parse_smaps(TEXT.split(b"\n"))

    assert first == {"Size": 12288, "KernelPageSize": 4096, "Rss": 8192, "Pss": 6144, "Private_Dirty": 4096}
    assert (second_vma.path, second["Rss"], second["NewField"]) == ("/tmp/Rss: 5 kB", 4096, 3072)


def test_sums_leave_page_sizes_out() -> None:
    total = sum_fields(fields for _, fields in parse_smaps(TEXT.split(b"\n")))

    assert total == {"Rss": 12288, "Pss": 7168, "Private_Dirty": 4096, "NewField": 3072}


def entry(number: int, rss: int, *end: bytes) -> list[bytes]:
    fields = [b"%s: %8d kB" % (name.encode(), rss) for name in sorted(FIELDS_USED)]
    return [b"%x000-%x000 rw-p 00000000 00:00 0 " % (number, number + 1), b"Size: 4 kB", *fields, *end]


def parse_pieces(lines: list[bytes], cuts: list[int]) -> list[tuple[Vma, dict[str, int]]]:
    """Parse lines as they come when the text is read in pieces."""
    return list(chain.from_iterable(SmapsParser(NO_DEVICES, 1 << 20, False).batches(pieces_of(lines, cuts))))


def pieces_of(lines: list[bytes], cuts: list[int]) -> list[bytes]:
    """Return the text of lines in pieces."""
    edges = [0, *sorted(cuts), len(lines)]
    return [b"\n".join(lines[low:high]) for low, high in pairwise(edges) if low < high]


FLAGS = b"VmFlags: rd wr mr mw me ac "
ENDS = ((FLAGS,), (), (FLAGS, b"New: 3 kB"), (b"THPeligible: 0", FLAGS))
"""How an entry ends: as it does, before Linux 3.8, and as it may some day."""


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(ENDS)), max_size=20),
    st.lists(st.integers(0, 200), max_size=5),
)
def test_entries_are_the_same_in_whatever_pieces_the_text_comes(
    told: list[tuple[int, tuple[bytes, ...]]], cuts: list[int]
) -> None:
    lines = [line for number, (rss, end) in enumerate(told, 1) for line in entry(number, rss, *end)]

    assert parse_pieces(lines, [cut for cut in cuts if cut < len(lines)]) == parse_smaps(lines)


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), max_size=9, unique_by=lambda one: one[0])),
    st.lists(st.integers(0, 99), max_size=4),
    st.sampled_from([0, 300, 1 << 20]),
)
def test_what_is_known_of_the_look_before_changes_nothing(
    looks: list[list[tuple[int, int]]], cuts: list[int], room: int
) -> None:
    before = LastTexts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smaps, "MOST_KEPT", room)
        for look in looks:
            lines = [line for number, rss in sorted(look) for line in entry(number, 4 * rss, FLAGS)]
            fresh, knowing = SmapsParser(NO_DEVICES, 99, False), SmapsParser(NO_DEVICES, 99, False, before)
            knowing.begin()
            pieces = pieces_of(lines, [cut for cut in cuts if cut < len(lines)])
            answers = [list(chain.from_iterable(parser.batches(pieces))) for parser in (fresh, knowing)]
            assert answers[0] == answers[1]
            assert (fresh.heads.mark, fresh.heads.nr_vmas) == (knowing.heads.mark, knowing.heads.nr_vmas)
            assert sum(len(key[2]) for key in before._now) <= room


def test_what_says_the_same_again_is_not_parsed_again() -> None:
    lines = [line for number in range(1, 9) for line in entry(number, number, FLAGS)]
    before, looks = LastTexts(), []
    for _ in range(3):
        parser = SmapsParser(NO_DEVICES, 99, False, before)
        parser.begin()
        looks.append(list(chain.from_iterable(parser.batches([b"\n".join(lines)]))))
    assert all(one[0] is other[0] for one, other in zip(looks[0], looks[2], strict=True))


@pytest.mark.parametrize("which", ["usage", "maps"])
def test_looks_at_a_process_that_changes_are_those_of_who_looks_for_the_first_time(which: str) -> None:
    with program(CHANGING) as target, Process(target.pid) as known:
        known.expect_more_looks()
        for _ in range(12):
            assert target.process.stdin
            target.process.stdin.write("\n")
            target.process.stdin.flush()
            assert target.process.stdout
            target.process.stdout.readline()
            with Process(target.pid) as fresh:
                answers = [getattr(process, which)("smaps").to_dict() for process in (known, fresh)]
            for answer in answers:
                del answer["reading"]
            by_others = ("pss", "uss", "nr_exclusive")
            assert without(answers[0], by_others) == without(answers[1], by_others)


def without(value: object, names: Sequence[str]) -> object:
    """Return a value without what others change: of files that we map too."""
    if isinstance(value, dict):
        return {key: without(part, names) for key, part in value.items() if key not in names}
    return [without(part, names) for part in value] if isinstance(value, list | tuple) else value


CHANGING = f"""
import mmap, sys
print(0, flush=True)
areas = []
for number, _ in enumerate(sys.stdin):
    if number % 3 != 1:
        areas.append(mmap.mmap(-1, 7 * {PAGE}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        areas[-1][: (number % 7 + 1) * {PAGE}] = b"x" * ((number % 7 + 1) * {PAGE})
        areas[-1][0]
    if number % 5 == 4:
        areas.pop(0).close()
    print(number, flush=True)
"""


def test_vmas_of_which_smaps_says_the_same_share_their_fields() -> None:
    lines = [line for number, rss in enumerate((4, 8, 4, 4), 1) for line in entry(number, rss, FLAGS)]
    first, second, third, _ = parse_pieces(lines, [])

    assert (first[1] is third[1], first[1] == second[1]) == (True, False)
    assert [vma.start for vma, _ in (first, second, third)] == [0x1000, 0x2000, 0x3000]


def test_what_is_kept_of_fields_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smaps, "MAX_KNOWN", 3)
    lines = [line for number in range(1, 30) for line in entry(number, number % 7, FLAGS)]
    parser = SmapsParser(NO_DEVICES, 1 << 20, False)

    assert list(chain.from_iterable(parser.batches([b"\n".join(lines)]))) == parse_smaps(lines)
    assert len(parser._known) <= 3


@pytest.mark.parametrize("line", [b"Rss: 4 kB", b"x"])
def test_entry_that_does_not_end_is_an_error(line: bytes) -> None:
    with pytest.raises(FormatError, match=f"at most {MAX_LINES} lines"):
        parse_pieces([*entry(1, 4), *[line] * MAX_LINES], [])


def test_smaps_and_maps_have_the_same_mark() -> None:
    with sparse(1 << 20, [1]) as target, ProcFS().process(target.pid) as process:
        reader = SmapsReader(process)
        nr_vmas = sum(map(len, reader))
        assert (nr_vmas > 9, reader.mark) == (True, read_mark(process))


def test_amount_that_is_no_number_is_an_error_that_shows_it() -> None:
    with pytest.raises(FormatError, match="Rss: lots kB"):
        parse_smaps([b"1000-2000 r--p 0 00:00 0", b"Rss: lots kB"])


def test_amount_that_is_no_number_is_an_error_in_entries_like_others_too() -> None:
    later = [line.replace(b"Rss:        7 kB", b"Rss:     lots kB") for line in entry(2, 7, FLAGS)]

    with pytest.raises(FormatError, match="lots kB"):
        parse_pieces([*entry(1, 4, FLAGS), *later], [])


@pytest.mark.parametrize("other", [b"New:        7 kB", b"Swap: 7 kB", b"Odd: 7 MB", b"Odd:"])
def test_entry_of_another_form_is_read_line_by_line(other: bytes) -> None:
    lines = [line for number in (1, 2, 3) for line in entry(number, number, FLAGS)]
    lines.insert(lines.index(b"Rss:        2 kB"), other)

    assert parse_pieces([*lines, *entry(4, 4, FLAGS)], []) == parse_smaps([*lines, *entry(4, 4, FLAGS)])


def test_without_rollup_smaps_is_summed(tmp_path: Path) -> None:
    (make_process(tmp_path, maps=MAPS) / "smaps").write_bytes(whole(TEXT))

    with ProcFS(str(tmp_path), 4096).process(7) as process:
        assert read_rollup(process) == sum_fields(fields for _, fields in read_smaps(process))


@pytest.mark.parametrize("field", sorted(FIELDS_USED))
def test_entry_cut_short_is_an_error_that_names_what_is_missing(field: str, tmp_path: Path) -> None:
    lines = whole(TEXT).splitlines(keepends=True)
    last = max(place for place, line in enumerate(lines) if line.startswith(field.encode() + b":"))
    (make_process(tmp_path, maps=MAPS) / "smaps").write_bytes(b"".join(lines[:last] + lines[last + 1 :]))

    message = f"smaps, 7f0000003000-7f0000004000: expected {field}$"
    with ProcFS(str(tmp_path), 4096).process(7) as process, pytest.raises(FormatError, match=message):
        read_smaps(process)


@steadily
def test_rollup_agrees_with_the_sum_of_smaps() -> None:
    with sparse(256 * PAGE, range(0, 256, 3)) as target, ProcFS().process(target.pid) as process:
        summed = sum_fields(fields for _, fields in read_smaps(process))
        rolled = read_rollup(process)
    for name in ("Rss", "Anonymous", "Swap", "AnonHugePages"):
        assert rolled[name] == summed[name]


def test_smaps_and_maps_have_the_same_vmas() -> None:
    with sparse(1 << 20, [1]) as target, ProcFS().process(target.pid) as process:
        assert [vma for vma, _ in read_smaps(process)] == parse_maps(process.lines("maps"))


def test_huge_pages_are_left_out_of_others_where_they_are_of_ours(victim: Callable[..., Victim]) -> None:
    area = victim("thp_prot_none")["thp_prot_none"]
    with ProcFS().process(area.pid) as process:
        told = sum(fields["Rss"] for vma, fields in read_smaps(process) if area.address <= vma.start < area.end)
    assert (told < area.nr_resident * area.page_size) == leaves_out_huge_pages()
