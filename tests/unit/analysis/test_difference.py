"""Two looks compared: every VMA is in one row, and the rows add up to the change of the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mematlas.analysis.difference import AMOUNTS, OF_OTHERS, amounts_of, grouped, less, matched, row_of
from mematlas.analysis.results import VmaUsage
from mematlas.analysis.usage import Usage
from mematlas.kernel.maps import Vma

PAGE = 4096


def item(start: int, nr_pages: int, nr_present: int = 0, path: str = "", perms: str = "rw-p") -> VmaUsage:
    size = nr_present * PAGE
    usage = Usage(size, size, size, 0, size, 0, 0, 0, 0, 0, nr_pages, nr_present, 0, nr_present)
    kind = "file" if path else "anon"
    vma = Vma(start * PAGE, (start + nr_pages) * PAGE, perms, 0, "00:00", 0, path, kind)  # type: ignore[arg-type]
    return VmaUsage(vma, usage, None, None)


@st.composite
def spaces(draw: st.DrawFn) -> list[VmaUsage]:
    """Address spaces whose VMAs do not overlap."""
    found, at = [], 1
    for _ in range(draw(st.integers(0, 8))):
        at += draw(st.integers(0, 3))
        nr_pages = draw(st.integers(1, 4))
        path, perms = draw(st.sampled_from(("", "/a", "/b"))), draw(st.sampled_from(("rw-p", "r--p")))
        found.append(item(at, nr_pages, draw(st.integers(0, nr_pages)), path, perms))
        at += nr_pages
    return found


@given(spaces(), spaces())
def test_each_vma_is_in_one_pair(before: list[VmaUsage], after: list[VmaUsage]) -> None:
    pairs = matched(before, after)

    assert sorted(one.start for one, _ in pairs if one) == [one.start for one in before]
    assert sorted(other.start for _, other in pairs if other) == [other.start for other in after]
    assert all(one.path == other.path and one.perms == other.perms for one, other in pairs if one and other)


@given(spaces(), spaces(), st.sampled_from(("vma", "path", "kind")))
def test_rows_add_up_to_the_change_of_the_whole(before: list[VmaUsage], after: list[VmaUsage], by: str) -> None:
    if by == "vma":
        pairs = [([one] if one else [], [other] if other else []) for one, other in matched(before, after)]
    else:
        pairs = list(grouped(before, after, by))
    rows = [row for pair in pairs if (row := row_of(*pair, by, None))]

    one, other = amounts_of(before), amounts_of(after)
    for name in AMOUNTS:
        if name != OF_OTHERS:
            assert sum(row.changes[name] or 0 for row in rows) == less(other[name], one[name])
    assert sum(row.size for row in rows) == sum(each.size for each in after) - sum(each.size for each in before)


@given(spaces())
def test_what_is_the_same_has_no_row(space: list[VmaUsage]) -> None:
    assert [row_of([one], [other], "vma", None) for one, other in matched(space, space) if one and other] == [
        None for _ in space
    ]


def test_a_heap_that_grows_is_the_same_one_and_a_stack_that_grows_down_too() -> None:
    heap, more = item(10, 4, 4, "[heap]"), item(10, 9, 7, "[heap]")
    stack, deeper = item(90, 3, 3, "[stack]"), item(85, 8, 8, "[stack]")
    (one, two) = matched([heap, stack], [more, deeper])

    assert (one, two) == ((heap, more), (stack, deeper))
    row = row_of([heap], [more], "vma", None)
    assert row
    assert (row.how, row.size, row.changes["rss"]) == ("grown", 5 * PAGE, 3 * PAGE)


def test_what_is_split_goes_on_in_its_first_part() -> None:
    whole = item(10, 9, 9, "/a")
    first, guard, last = item(10, 3, 3, "/a"), item(13, 1, 1, "/a", "---p"), item(14, 5, 5, "/a")

    assert matched([whole], [first, guard, last]) == [(whole, first), (None, guard), (None, last)]
