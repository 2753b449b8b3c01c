"""What an older kernel lacks is done another way, with the same result."""

from __future__ import annotations

import pytest

from helpers import PAGE, sparse
from inside import Facts
from mematlas import NotSupported, Process
from mematlas.doctor.bench import Bench
from mematlas.doctor.probes.pages import make_file_page
from mematlas.kernel.backing import call_cachestat
from mematlas.kernel.cachestat import call_mincore
from mematlas.kernel.pagemap import PRESENT, Pagemap
from mematlas.kernel.smaps import leaves_out_huge_pages
from mematlas.words import Source

pytestmark = pytest.mark.guest

SIZE = (1 << 18) * PAGE


def test_holes_are_searched_where_that_is_possible(facts: Facts) -> None:
    pages = [0, 1, 511, 512, 25_003, 62_507]
    with sparse(SIZE, pages) as target, Process(target.pid) as process, Pagemap(process.dir) as pagemap:
        found = [
            (block.address - target.told) // PAGE + page
            for block in pagemap.blocks(target.told, target.told + SIZE)
            for page, state in enumerate(block.states)
            if state & PRESENT
        ]
        assert found == pages
        assert pagemap.can_scan == (not facts.is_before("6.12"))


def test_smaps_with_holes_is_known_by_trying(facts: Facts) -> None:
    assert leaves_out_huge_pages() == (facts.kernel == "6.1")


def test_the_cache_is_asked_by_the_newest_call_there_is(facts: Facts) -> None:
    with Bench() as bench:
        fd = make_file_page(bench)
        assert call_mincore(fd, 0, PAGE, PAGE)[0] & 1
        if facts.is_before("6.12"):
            with pytest.raises(NotSupported):
                call_cachestat(fd, 0, PAGE)
        else:
            assert call_cachestat(fd, 0, PAGE)[0] == 1


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_what_cannot_be_known_is_noted_and_never_zero(source: Source) -> None:
    with sparse(SIZE, [5, 7]) as target, Process(target.pid) as process:
        result = process.usage(source)
    # Without PAGEMAP_SCAN zero pages are known by their frames' flags, and huge pages by nothing.
    assert result.usage.zero is not None
    assert (result.usage.thp is None) == any(note.code == "huge-unknown" for note in result.reading.notes)
