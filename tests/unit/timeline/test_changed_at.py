"""When pages have changed last, be it seen or recorded: the same, and what the moments themselves say."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from histories import seen, write
from mematlas.errors import NotSupported, TargetNotFound
from mematlas.timeline.encoding import MOST_DELTAS, Encoder
from mematlas.timeline.held_pages import HeldPages
from mematlas.timeline.recorded_timeline import RecordedTimeline
from mematlas.timeline.recording import Recording
from mematlas.timeline.sampler import Cost, Snapshot
from mematlas.timeline.watch import Files, Look
from mematlas.timeline.words import Sparse


def history(random: Random, nr_moments: int) -> list[dict[int, int]]:
    """Return the pages of a process at moments: at some of them nothing changes."""
    pages: dict[int, int] = {}
    moments = []
    for _ in range(nr_moments):
        if random.random() < 0.7:
            for _ in range(random.randrange(5)):
                pages[random.randrange(40)] = random.randrange(1, 4)
            pages = {page: word for page, word in pages.items() if random.random() < 0.95}
        moments.append(dict(pages))
    return moments


def sparse(pages: dict[int, int]) -> Sparse:
    return Sparse(np.array(sorted(pages), np.uint64), np.array([pages[page] for page in sorted(pages)], np.uint64))


def last_changes(moments: list[dict[int, int]], first: int, last: int) -> dict[int, float]:
    found: dict[int, float] = {}
    for number in range(first + 1, last + 1):
        before, now = moments[number - 1], moments[number]
        found |= {page: float(number) for page in before.keys() | now.keys() if before.get(page) != now.get(page)}
    return found


def recorded(path: Path, moments: list[dict[int, int]]) -> Recording:
    encoder = Encoder()
    rows = []
    for at, pages in enumerate(moments):
        look = Look((seen(7, [], files=Files({}, {"pagemap": sparse(pages)})),), (), {})
        rows.append(encoder.rows_of(Snapshot(1e9 + at, float(at), look, Cost(0.0, 0.0))))
    return Recording(str(write(path / "x.mematlas", rows)))


def plain(found: tuple[np.ndarray, np.ndarray]) -> dict[int, float]:
    pages, times = found
    assert (np.diff(pages.astype(np.int64)) > 0).all()
    return dict(zip(pages.tolist(), times.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_pages_have_changed_when_moments_say_so(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    moments = history(random, 2 * MOST_DELTAS + 9)
    held = HeldPages()
    for at, pages in enumerate(moments):
        held.add(float(at), sparse(pages))
    with recorded(tmp_path, moments) as recording:
        timeline = RecordedTimeline(recording)
        # Onward, and back again.
        for last in (3, 40, 41, len(moments) - 1, 20, 0):
            expected = last_changes(moments, 0, last)
            assert plain(held.changed_at(float(last))) == expected
            assert plain(timeline.changed_at(7, float(last))) == expected


def test_what_changed_before_what_is_held_is_not_known_any_more() -> None:
    moments = history(Random(3), 30)
    held = HeldPages()
    for at, pages in enumerate(moments):
        held.add(float(at), sparse(pages))
    assert plain(held.changed_at(29.0)) == last_changes(moments, 0, 29)
    held.let_go_before(17.0)
    assert plain(held.changed_at(29.0)) == last_changes(moments, 17, 29)


def test_a_recording_is_looked_back_for_so_many_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mematlas.timeline.recorded_timeline.MOST_LOOKED_BACK", 5)
    moments = history(Random(4), 30)
    with recorded(tmp_path, moments) as recording:
        timeline = RecordedTimeline(recording)
        assert plain(timeline.changed_at(7, 29.0)) == last_changes(moments, 24, 29)


def test_what_is_not_recorded_is_refused(tmp_path: Path) -> None:
    with recorded(tmp_path, history(Random(5), 3)) as recording:
        timeline = RecordedTimeline(recording)
        with pytest.raises(NotSupported, match="process 8"):
            timeline.changed_at(8, 1.0)
        with pytest.raises(TargetNotFound, match="outside"):
            timeline.changed_at(7, 99.0)
