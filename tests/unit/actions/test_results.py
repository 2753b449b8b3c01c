"""What plans, acts and watches return turns into dictionaries and JSON, and adds up."""

from __future__ import annotations

import json
import os

import pytest

from mematlas import Effect, Process, Refaults, plan
from mematlas.actions.effects import Freed, VmaEffect, together
from mematlas.frozen import replace
from mematlas.kernel.maps import parse_maps
from mematlas.model.page_set import PageSet
from mematlas.notes import Note

PAGE = 4 << 10
(VMA,) = parse_maps([b"7f0000000000-7f0002000000 rw-p 00000000 00:00 0"])


def pages(first: int, nr_pages: int) -> PageSet:
    found = PageSet(PAGE)
    found.add(VMA.start + first * PAGE, b"\1" * nr_pages)
    return found


def effect_of(moved: PageSet, nr_requested: int, *, swap_cached: int | None = 0, **reasons: int) -> Effect:
    """Return what a pageout of private memory came to."""
    return Effect(
        advice="pageout",
        nr_requested=nr_requested,
        nr_advised=nr_requested,
        nr_moved=moved.nr_pages,
        reasons=reasons,
        passes=1,
        seconds=0.5,
        advise_s=0.25,
        swap=moved.nr_pages * PAGE,
        swap_cached=swap_cached,
        page_cached=0,
        nr_given_up=0,
        freed=None,
        moved=moved,
        kept=None,
        vmas=(VmaEffect(VMA, nr_requested, nr_requested, moved.nr_pages, reasons),),
        stopped="",
        gone=False,
        notes=(Note("gone", "the process is gone"),),
    )


def test_effect_is_json_and_its_pages_are_runs_of_addresses() -> None:
    told = json.loads(json.dumps(effect_of(pages(3, 97), 101, shared=4).to_dict()))
    assert told["moved"] == [[VMA.start + 3 * PAGE, VMA.start + 100 * PAGE]]
    assert (told["kept"], told["reasons"]) == (None, {"shared": 4})
    assert told["vmas"][0]["vma"]["start"] == VMA.start
    assert told["notes"] == [{"code": "gone", "text": "the process is gone"}]


def test_plan_and_refaults_are_json() -> None:
    with Process(os.getpid()) as process:
        planned = plan(process, "cold", only=pages(0, 2))
    assert json.loads(json.dumps(planned.to_dict()))["only"] == [[VMA.start, VMA.start + 2 * PAGE]]
    seen = Refaults(1.0, 97, 90, 0, ((0.5, 90),), (), pages(0, 7), "", False)
    assert json.loads(json.dumps(seen.to_dict()))["never"] == [[VMA.start, VMA.start + 7 * PAGE]]


@pytest.mark.parametrize(("cached", "nr_freed"), [(0, 97), (7 * PAGE, 90), (None, None)])
def test_what_went_out_again_is_counted_once(cached: int | None, nr_freed: int | None) -> None:
    first = replace(effect_of(pages(0, 97), 101, swap_cached=97 * PAGE, shared=4), freed=Freed(97, 0))
    back = effect_of(pages(0, 97), 97)
    again = effect_of(pages(0, 97), 97, swap_cached=cached)
    whole = together(first, back, again, 2.0)
    assert (whole.nr_requested, whole.nr_moved, whole.reasons) == (101, 97, {"shared": 4})
    assert (whole.swap, whole.swap_cached, whole.freed) == (97 * PAGE, cached, Freed(97, nr_freed))
    assert (whole.passes, whole.seconds) == (2, 2.5)


def test_what_stays_in_ram_the_second_time_is_no_longer_said_to_have_moved() -> None:
    first = replace(effect_of(pages(0, 97), 101, swap_cached=97 * PAGE, shared=4), freed=Freed(97, 0))
    again = effect_of(pages(0, 60), 97, busy=30)  # 7 of the 37 nobody explains
    whole = together(first, effect_of(pages(0, 97), 97), again, 2.0)
    assert (whole.nr_moved, whole.reasons) == (60, {"shared": 4, "busy": 37})
    assert whole.nr_stayed == sum(whole.reasons.values()) == 41
    assert whole.vmas[0].nr_moved == 60
    assert list(whole.moved.ranges()) == [(VMA.start, VMA.start + 60 * PAGE)]
