"""Numbers equal the truth: for a process that stands still, from both sources, for every kind of memory.

The kernel's smaps is parsed here on its own. Pages of libraries are shared with processes that come and go
meanwhile, so whatever is compared was read between two readings of smaps that are alike.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import pytest

from conftest import merging, reserved_hugetlb
from helpers import (
    TOLD_BY_SMAPS,
    Smaps,
    assert_equal_smaps,
    look,
    skip_without_tables,
    steadily,
    tables_unread,
    tells_swap,
)
from mematlas import Process
from mematlas.analysis.grid import CLASSES
from mematlas.analysis.results import MapsResult, VmaUsage
from mematlas.cli import main
from mematlas.frozen import as_dict
from mematlas.kernel.backing import SWAP_CACHE_UNSEEN
from mematlas.kernel.pagemap import PM_SOFT_DIRTY
from mematlas.model.pages import STATE_OF_BYTE, Hole
from mematlas.words import PagesFrom, Source
from victim import FIXTURES, KINDS, PATH_KINDS, Area, Victim

pytestmark = pytest.mark.machine

T = TypeVar("T")

FORKED = ("parent", "child", "parent, half rewritten", "child, half rewritten")
SCENES = (*(kind for kind in KINDS if kind != "forked"), *FORKED, "path_newline", "path_deleted_twice")
SOURCES = ("smaps", "pagemap", "tables")
PAGE_SOURCES: tuple[PagesFrom, ...] = ("pagemap", "tables")
PRESENT = ("own", "shared", "zero")
OUR_NAMES = {
    **dict.fromkeys(("shared", "hugetlb"), "present"),
    **dict.fromkeys(("shmem_swapped", "marker_swapped"), "swapped"),
    "marker": "special",
    "guard_swapped": "guard",
}
"""What we call the states of a victim, where it is another word."""


@dataclass
class Scene:
    """A process that stands still, and the one VMA of it whose every page is known."""

    area: Area
    process: Process

    def look(self, what: Callable[[], T]) -> tuple[Smaps, T]:
        return look(self.area.pid, what)

    def maps(self, source: Source) -> tuple[Smaps, MapsResult]:
        return self.look(lambda: self.process.maps(source))

    def known(self, result: MapsResult) -> VmaUsage:
        """Return the VMA whose pages are known."""
        return next(item for item in result.vmas if item.vma.start == self.area.address)


@pytest.fixture(params=SCENES, scope="module")
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Make a scene, for all tests of it: it stands still, and they only look."""
    kind: str = request.param
    fixture = FIXTURES.get(kind)
    if fixture == "swap":
        request.getfixturevalue(fixture)
    # Not for the rest of the module, as a fixture would: these settings are of the machine.
    setting = {"ksm": merging, "hugetlb_pages": reserved_hugetlb}.get(fixture or "", contextlib.nullcontext)
    with setting(), Victim("forked" if kind in FORKED else kind) as made:
        name = kind
        if kind in FORKED:
            made.fork()
            name = "forked_child" if kind.startswith("child") else "forked"
        if kind.endswith("rewritten"):
            made.rewrite_half()
        area = made[name]
        with made.stopped(), Process(area.pid) as process:
            yield Scene(area, process)


@functools.cache
def why_no_tables() -> str | None:
    """Return why page tables cannot be read here; None when they can."""
    with Process(os.getpid()) as process:
        return tables_unread(process)


@pytest.fixture(autouse=True)
def tables_where_asked_for(request: pytest.FixtureRequest) -> None:
    """Skip what reads page tables, where they cannot be read."""
    if "source" in request.fixturenames and request.getfixturevalue("source") == "tables" and (why := why_no_tables()):
        pytest.skip(why)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
@steadily
def test_every_vma_equals_smaps(source: PagesFrom, scene: Scene) -> None:
    smaps, result = scene.maps(source)

    assert [(item.vma.start, item.vma.end) for item in result.vmas] == [(at, smaps[at]["End"]) for at in smaps]
    for item in result.vmas:
        assert_equal_smaps(item.usage, smaps[item.vma.start], source, item.vma)
    assert (result.reading.source, result.reading.torn) == (source, False)
    # Whatever is said in full has no note.
    notes = [note for note in result.reading.notes if note.code != "huge-unknown"]
    assert (len(notes) < len(result.reading.notes)) == any(item.usage.thp is None for item in result.vmas)
    told = all(tells_swap(source, item.vma.kind) for item in result.vmas)
    short = any((item.usage.swap or 0) < smaps[item.vma.start]["Swap"] for item in result.vmas)
    assert notes == [SWAP_CACHE_UNSEEN] or not (notes or short)
    assert not (notes and told)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
@steadily
def test_usage_is_the_sum_of_smaps(source: PagesFrom, scene: Scene) -> None:
    smaps, result = scene.look(lambda: scene.process.usage(source))

    sums = {name: sum(fields[name] for fields in smaps.values()) for name in smaps[scene.area.address]}
    usage = result.usage
    assert (usage.rss, usage.swap, usage.anon) == (sums["Rss"], sums["Swap"], sums["Anonymous"])
    assert usage.uss == sums["Private_Clean"] + sums["Private_Dirty"]
    assert usage.pss is not None
    assert 0 <= usage.pss - sums["Pss"] < 1024 * len(smaps)
    assert usage.rss == (usage.anon or 0) + (usage.file or 0) + (usage.shmem or 0)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
def test_counts_are_the_truth(source: PagesFrom, scene: Scene) -> None:
    area = scene.area

    item = scene.known(scene.maps(source)[1])
    usage = item.usage
    assert (usage.nr_pages, usage.nr_present) == (area.nr_pages, area.nr_present)
    assert (usage.nr_swapped, usage.zero) == (area.nr_swapped, area.nr_zero * area.page_size)
    assert usage.nr_exclusive == area.nr_exclusive + area.nr_hugetlb
    assert item.first_state == OUR_NAMES.get(area.states[0], area.states[0])
    assert (item.phys is not None) == (area.states[0] in ("present", "shared", "zero", "hugetlb"))


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", PAGE_SOURCES)
@steadily
def test_both_sources_agree_in_all_that_both_know(source: PagesFrom, scene: Scene) -> None:
    _, (first, second) = scene.look(lambda: (scene.process.maps("smaps"), scene.process.maps(source)))

    for one, two in zip(first.vmas, second.vmas, strict=True):
        assert (one.vma, one.first_state, one.phys) == (two.vma, two.first_state, two.phys)
        other = as_dict(two.usage)
        untold = {"pss"} | {key for key in TOLD_BY_SMAPS if other[key] is None}
        known = {key: value for key, value in as_dict(one.usage).items() if key not in untold and value is not None}
        assert {key: other[key] for key in known} == known
    assert None not in as_dict(scene.known(first).usage).values()
    unknown = {key for key, value in as_dict(scene.known(second).usage).items() if value is None}
    assert unknown <= TOLD_BY_SMAPS


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", PAGE_SOURCES)
def test_pages_are_in_the_states_that_are_known(source: PagesFrom, scene: Scene) -> None:
    area = scene.area

    found: list[str] = []
    for _, piece in scene.process.pages(area.address, area.end, source=source):
        states = bytes((piece.byte,)) * len(piece) if isinstance(piece, Hole) else piece.states
        found += [STATE_OF_BYTE[byte] for byte in states]
    assert found == [OUR_NAMES.get(state, state) for state in area.states]


@pytest.mark.root("CAP_SYS_ADMIN")
def test_entries_of_both_sources_are_the_same(scene: Scene) -> None:
    area = scene.area
    found = {}
    for source in PAGE_SOURCES:
        if source == "tables":
            skip_without_tables(scene.process)
        words = found[source] = [0] * area.nr_pages
        for _, piece in scene.process.pages(area.address, area.end, source=source):
            if not isinstance(piece, Hole):
                first = (piece.address - area.address) // area.page_size
                # What was mapped lately is soft-dirty as a whole, by its VMA.
                words[first : first + len(piece)] = [entry & ~PM_SOFT_DIRTY for entry in piece.entries]
    assert found["tables"] == found["pagemap"]


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", PAGE_SOURCES)
@pytest.mark.parametrize("first", [1, 511])
def test_a_range_may_begin_anywhere(first: int, source: PagesFrom, scene: Scene) -> None:
    area = scene.area
    first = min(first, area.nr_pages - 1)
    found: list[str] = []
    for _, piece in scene.process.pages(area.page_address(first), area.page_address(first + 1), source=source):
        states = bytes((piece.byte,)) * len(piece) if isinstance(piece, Hole) else piece.states
        found += [STATE_OF_BYTE[byte] for byte in states]
    assert found == [OUR_NAMES.get(area.states[first], area.states[first])]


def count_pages(process: Process, source: PagesFrom) -> Counter[str]:
    """Return the number of pages of each state."""
    counts: Counter[str] = Counter()
    for _, piece in process.pages(source=source):
        states = {piece.byte: len(piece)} if isinstance(piece, Hole) else piece.kinds
        for byte, nr_pages in states.items():
            counts[STATE_OF_BYTE[byte]] += nr_pages
    return counts


@pytest.mark.parametrize("source", PAGE_SOURCES)
@pytest.mark.parametrize("how", ["grid", "density"])
@steadily
def test_pictures_show_every_page_once(how: str, source: PagesFrom, scene: Scene) -> None:
    def draw() -> tuple[Counter[str], Counter[str]]:
        process = scene.process
        strips = process.grid(source=source).strips if how == "grid" else []
        drawn = [strip.cells for strip in strips] or [process.density(37, source=source).cells]
        sums = Counter(dict.fromkeys(CLASSES, 0))
        for cells in drawn:
            for cell in range(cells.nr_cells):
                sums.update(cells.classes(cell))
        return sums, count_pages(process, source)

    _, (sums, counts) = scene.look(draw)
    assert sums["own"] + sums["shared"] == counts["present"]
    assert all(sums[name] == counts[name] for name in CLASSES if name not in ("own", "shared"))


@pytest.mark.root("CAP_SYS_ADMIN")
@steadily
def test_verify_finds_no_difference(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    _, code = scene.look(lambda: main(["usage", "--verify", str(scene.area.pid)]))

    assert (code, " NO " in capsys.readouterr().out) == (0, False)


@pytest.mark.parametrize("kind", PATH_KINDS)
def test_paths_are_those_that_the_kernel_has(kind: str, victim: Callable[..., Victim]) -> None:
    area = victim(kind)[kind]

    with Process(area.pid) as process:
        vma = process.address_space().find(area.address)
    assert vma
    path = area.path + (" (deleted)" if area.deleted else "")
    assert (vma.path, vma.kind, vma.size) == (path, "file", area.size)
