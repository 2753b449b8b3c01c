"""The arithmetic of RSS, PSS, USS and swap, and how two sources are compared."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.analysis.page_usage import PageCounts, shared_pss, usage_of_pages
from mematlas.analysis.results import MapsResult, Reading, VmaUsage
from mematlas.analysis.usage import Usage, total, usage_of_fields
from mematlas.analysis.verify import MEASURES, UNEXPLAINED, VmaAmounts, compare
from mematlas.frozen import as_dict, replace
from mematlas.kernel.backing import SWAP_CACHE_UNSEEN
from mematlas.kernel.maps import Vma
from mematlas.kernel.pagemap import EXCLUSIVE, PRESENT, histogram
from mematlas.kernel.smaps import LEFT_OUT
from mematlas.model.hugecounts import ESTIMATE
from mematlas.notes import Note
from mematlas.words import Kind

PAGE = 4096
STATES = bytes((0x81, 0x81, 0x80, 0xA0, 0xA1, 0x88, 0x40, 0x08, 0x44, 0x48, 0x10, 0x00, 0x00))
"""Own, own, shared, shared file, own file, zero, swapped, swapped file, guard, special, cached, absent, absent."""


def make_vma(kind: Kind = "anon", nr_pages: int = len(STATES)) -> Vma:
    return Vma(
        start=0x1000, end=0x1000 + nr_pages * PAGE, perms="rw-p", offset=0, dev="00:00", inode=0, path="", kind=kind
    )


def count(
    states: bytes = STATES,
    kind: Kind = "anon",
    sharers: dict[int, int] | None = None,
    zero_known: bool = True,
    hole: str = "absent",
) -> Usage:
    counts = PageCounts()
    counts.add(histogram(states))
    vma = make_vma(kind, len(states))
    return usage_of_pages(vma, counts, PAGE, zero_known=zero_known, hole=hole, sharers=sharers, thp=0)


def test_each_state_counts_where_it_belongs() -> None:
    usage = count(kind="file", sharers={2: 1, 4: 1})

    assert as_dict(usage) == {
        "rss": 5 * PAGE,
        "pss": 3 * PAGE + PAGE // 2 + PAGE // 4,
        "uss": 3 * PAGE,
        "swap": 2 * PAGE,
        "anon": 3 * PAGE,
        "file": 2 * PAGE,
        "shmem": 0,
        "hugetlb": 0,
        "thp": 0,
        "zero": PAGE,
        "nr_pages": 13,
        "nr_present": 6,
        "nr_swapped": 2,
        "nr_exclusive": 3,
        "lazyfree": None,
        "swap_pss": None,
    }


def test_file_pages_of_shared_memory_are_shmem() -> None:
    usage = count(kind="shmem", sharers={2: 2})

    assert (usage.file, usage.shmem, usage.anon) == (0, 2 * PAGE, 3 * PAGE)


def test_huge_pages_freed_meanwhile_are_no_more_than_is_resident() -> None:
    counts = PageCounts()
    counts.add({PRESENT: 512, PRESENT | EXCLUSIVE: 512})
    sharers, thp = {0: 95, 2: 417}, 1024 * PAGE
    usage = usage_of_pages(
        make_vma(nr_pages=1024), counts, PAGE, zero_known=True, hole="absent", sharers=sharers, thp=thp
    )
    assert usage.thp == usage.rss == 929 * PAGE


def test_frames_that_nobody_maps_are_no_part_of_rss() -> None:
    usage = count(sharers={0: 1, 2: 1})

    assert (usage.rss, usage.nr_present) == (4 * PAGE, 6)


def test_hugetlb_is_no_part_of_rss() -> None:
    usage = count(bytes((0xA1, 0xA0, 0)), kind="hugetlb")

    assert (usage.rss, usage.pss, usage.uss, usage.hugetlb) == (0, 0, 0, 2 * PAGE)
    assert (usage.nr_present, usage.nr_exclusive) == (2, 1)


@pytest.mark.parametrize("kind", ["vvar", "vsyscall"])
def test_kernels_own_pages_are_not_counted_by_either_source(kind: Kind) -> None:
    fields = dict.fromkeys(
        ("Rss", "Anonymous", "Private_Clean", "Private_Dirty", "Pss", "Swap", "LazyFree", "SwapPss"), 0
    )

    hidden = count(b"", kind=kind, hole="unknown", sharers={})
    assert replace(hidden, nr_pages=1) == usage_of_fields(make_vma(kind, 1), fields, PAGE, 0, is_hidden=True)
    assert hidden.nr_present is None


def test_kernels_own_pages_count_where_they_are_shown() -> None:
    # [vvar] is ordinary memory since Linux 7.
    fields = {
        "Rss": PAGE,
        "Anonymous": 0,
        "Private_Clean": 0,
        "Private_Dirty": 0,
        "Pss": PAGE // 2,
        "Swap": 0,
        "SwapPss": 0,
        "LazyFree": 0,
    }

    shown = count(b"\xa0", kind="vvar", sharers={2: 1})
    assert shown == usage_of_fields(make_vma("vvar", 1), fields, PAGE, 0)
    assert shown.nr_present == 1


def test_what_cannot_be_known_is_none_and_never_zero() -> None:
    assert count(sharers=None).pss is None
    unknown = count(zero_known=False, sharers={2: 2})
    assert (unknown.rss, unknown.anon, unknown.pss, unknown.zero) == (None, None, None, None)
    assert (unknown.uss, unknown.swap) == (3 * PAGE, 2 * PAGE)
    for usage in (count(bytes((0x18, 0x81)), kind="shmem"), count(hole="unknown", kind="shmem")):
        assert (usage.swap, usage.nr_swapped) == (None, None)


def test_what_is_unknown_in_one_is_unknown_in_the_sum() -> None:
    one = Usage(*range(16))

    assert as_dict(total([one, one])) == {name: 2 * value for name, value in as_dict(one).items()}
    assert total([one, replace(one, pss=None)]).pss is None
    assert total([]) == Usage(*[0] * 16)


@given(st.dictionaries(st.integers(0, 500), st.integers(1, 600), max_size=20), st.sampled_from([4096, 65536]))
def test_pss_is_rounded_as_the_kernel_rounds(sharers: dict[int, int], page_size: int) -> None:
    # fs/proc/task_mmu.c: the share of each page in 1/4096 of a byte, rounded down, then summed.
    slowly = 0
    for map_count, nr_pages in sharers.items():
        for _ in range(nr_pages):
            slowly += (page_size << 12) // map_count if map_count else 0
    assert shared_pss(sharers, page_size) == slowly >> 12


@given(st.binary(max_size=300))
def test_counts_add_up_block_by_block(states: bytes) -> None:
    counts = PageCounts()
    for at in range(0, len(states), 7):
        counts.add(histogram(states[at : at + 7]))

    assert counts.by_byte == Counter(states)
    assert counts.nr_with(0x80, 0x80) == sum(byte >> 7 for byte in states)


# --- verify


def told(vmas: list[VmaUsage], source: str, notes: tuple[Note, ...] = (), torn: bool = False) -> VmaAmounts:
    return VmaAmounts(MapsResult(vmas, Reading(source, 0.0, torn, notes)))


def result(usage: Usage, source: str = "smaps", notes: tuple[Note, ...] = (), torn: bool = False) -> VmaAmounts:
    return told([VmaUsage(make_vma(), usage, None, None)], source, notes, torn)


BASE = Usage(100 * PAGE, 50 * PAGE, 20 * PAGE, *[PAGE] * 11)


def compared(counted: Usage, after: Usage = BASE, torn: bool = False) -> dict[str, tuple[bool | None, str]]:
    rows = compare(
        result(BASE, torn=torn), result(counted, "pagemap", (Note("pss-unknown", "PSS unknown: why"),)), result(after)
    )
    assert [row.measure for row in rows] == list(MEASURES)
    return {row.measure: (row.explained, row.reason) for row in rows}


def test_equal_sources_need_no_explanation() -> None:
    assert set(compared(BASE).values()) == {(True, "")}


@pytest.mark.parametrize(("difference", "explained"), [(1023, True), (1024, False), (-1, False)])
def test_pss_may_differ_by_rounding_alone(difference: int, explained: bool) -> None:
    found = compared(replace(BASE, pss=50 * PAGE + difference))["pss"]

    assert found[0] == explained
    assert ("rounds" in found[1]) == explained


def test_difference_without_a_reason_is_a_mistake() -> None:
    assert compared(replace(BASE, rss=101 * PAGE))["rss"][0] is False


def test_process_that_runs_explains_a_difference() -> None:
    explained, reason = compared(replace(BASE, rss=101 * PAGE), after=replace(BASE, rss=102 * PAGE))["rss"]

    assert (explained, "changed" in reason) == (True, True)


def test_process_that_runs_explains_no_more_than_it_changed() -> None:
    found = compared(replace(BASE, rss=103 * PAGE), after=replace(BASE, rss=102 * PAGE))
    assert found["rss"] == (False, UNEXPLAINED)
    assert compared(replace(BASE, rss=101 * PAGE), torn=True)["rss"] == (False, UNEXPLAINED)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize(("difference", "explained"), [(3 * PAGE, True), (-3 * PAGE, True), (4 * PAGE, False)])
def test_what_changed_is_counted_vma_by_vma(difference: int, explained: bool, shares: bool) -> None:
    # One VMA lost a page, another won two: the sum alone has changed by one.
    def several(first: int, second: int, like: VmaAmounts | None = None) -> VmaAmounts:
        vmas = [
            VmaUsage(replace(make_vma(), start=start, end=start + PAGE), replace(BASE, rss=size), None, None)
            for start, size in ((PAGE, first), (3 * PAGE, second))
        ]
        return VmaAmounts(MapsResult(vmas, Reading("", 0.0, False, ())), like)

    before = several(9 * PAGE, 9 * PAGE)
    like = before if shares else None
    after, counted = several(8 * PAGE, 11 * PAGE, like), several(9 * PAGE, 9 * PAGE + difference, like)
    assert (counted.vmas is before.vmas) == shares
    rows = compare(before, counted, after)
    assert next(row.explained for row in rows if row.measure == "rss") == explained


@pytest.mark.parametrize(("stopped", "rss", "pss"), [(False, True, True), (True, False, True)])
def test_capture_of_a_process_that_was_stopped_has_no_excuse_but_what_others_did(
    stopped: bool, rss: bool, pss: bool
) -> None:
    smaps, counted = result(BASE), result(replace(BASE, rss=101 * PAGE, pss=49 * PAGE), "pagemap")
    rows = compare(smaps, counted, smaps, captured=True, stopped=stopped)
    explained = {row.measure: row.explained for row in rows}
    assert (explained["rss"], explained["pss"]) == (rss, pss)


def test_swap_cache_that_this_kernel_does_not_tell_of_explains_less_swap_of_shared_memory() -> None:
    def reason(difference: int, *notes: Note, kind: Kind = "shmem") -> str:
        counted = replace(BASE, swap=(BASE.swap or 0) + difference)
        sides = [
            told([VmaUsage(make_vma(kind), usage, None, None)], source, about)
            for usage, source, about in ((BASE, "smaps", ()), (counted, "pagemap", notes))
        ]
        rows = compare(sides[0], sides[1], sides[0])
        (row,) = (row for row in rows if row.measure == "swap")
        assert row.explained == (row.reason != UNEXPLAINED)
        return row.reason

    assert reason(-PAGE, SWAP_CACHE_UNSEEN) == SWAP_CACHE_UNSEEN.text
    assert reason(PAGE, SWAP_CACHE_UNSEEN) == UNEXPLAINED
    assert reason(-PAGE) == UNEXPLAINED
    assert reason(-PAGE, SWAP_CACHE_UNSEEN, kind="anon") == UNEXPLAINED


@pytest.mark.parametrize(
    ("perms", "thp", "size", "leaves_out", "explained"),
    [
        ("---p", 3, 2, True, True),
        ("---p", None, 2, True, True),
        ("---p", 3, 2, False, False),
        ("---p", 2, 2, True, False),
        ("---p", None, 200, True, False),
        ("r--p", 3, 2, True, False),
    ],
)
def test_huge_pages_that_nobody_may_access_explain_more(
    perms: str, thp: int | None, size: int, leaves_out: bool, explained: bool
) -> None:
    def several(usage: Usage, source: str) -> VmaAmounts:
        vmas = [VmaUsage(replace(make_vma(), perms=perms), usage, None, None), VmaUsage(make_vma(), BASE, None, None)]
        return told(vmas, source)

    def plus(pages: int | None) -> int:
        return (pages or 0) + size * PAGE

    counted = replace(
        BASE,
        rss=plus(BASE.rss),
        pss=plus(BASE.pss),
        swap=plus(BASE.swap),
        hugetlb=plus(BASE.hugetlb),
        thp=None if thp is None else thp * PAGE,
    )
    before = several(BASE, "smaps")
    rows = compare(before, several(counted, "pagemap"), before, leaves_out=lambda: leaves_out)
    found = {row.measure: (row.explained, row.reason == LEFT_OUT) for row in rows}
    assert found["rss"] == found["pss"] == (explained, explained)
    assert found["swap"] == found["hugetlb"] == (False, False)


@pytest.mark.parametrize(("thp", "note", "explained"), [(3, True, True), (1, True, False), (3, False, False)])
def test_an_estimate_of_uss_differs_by_its_huge_pages_at_most(thp: int, note: bool, explained: bool) -> None:
    def result(usage: Usage, *notes: Note) -> VmaAmounts:
        return told([VmaUsage(make_vma(), usage, None, None)], "pagemap", notes)

    base = replace(BASE, thp=thp * PAGE)
    counted = replace(base, uss=(base.uss or 0) + 2 * PAGE)
    notes = (Note("huge-estimate", f"{ESTIMATE} (why)"),) if note else ()
    rows = compare(result(base), result(counted, *notes), result(base))

    (row,) = (row for row in rows if row.measure == "uss")
    assert (row.explained, row.reason) == (explained, f"{ESTIMATE} (why)" if explained else UNEXPLAINED)


def test_what_one_source_does_not_know_is_no_difference() -> None:
    assert compared(replace(BASE, pss=None))["pss"] == (None, "PSS unknown: why")
