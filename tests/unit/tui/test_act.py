"""Acting: what is said of what was done, while what comes back is watched and after that."""

from __future__ import annotations

from random import Random

from histories import seen, vma_at
from mematlas.actions.effects import Effect
from mematlas.actions.refaults import Refaults
from mematlas.frozen import replace
from mematlas.model.page_set import PageSet
from mematlas.tui.act import EFFECT, ActPage
from mematlas.tui.vma_names import VmaNames
from mematlas.views.effects import Report
from mematlas.views.picture import SHARED_ANON
from screens import look_of, shop, text_of, viewing_of

PAGE = 4 << 10


def pageout_of(nr_pages: int) -> Effect:
    """Return what a pageout came to that moved all."""
    moved = PageSet(PAGE)
    moved.add(0x7F0000000000, b"\1" * nr_pages)
    return Effect(
        advice="pageout",
        nr_requested=nr_pages,
        nr_advised=nr_pages,
        nr_moved=nr_pages,
        reasons={},
        passes=1,
        seconds=0.5,
        advise_s=0.25,
        swap=nr_pages * PAGE,
        swap_cached=0,
        page_cached=0,
        nr_given_up=0,
        freed=None,
        moved=moved,
        kept=None,
        vmas=(),
        stopped="",
        gone=False,
        notes=(),
    )


def test_what_was_moved_out_is_said_to_be_watched_until_it_is_no_more() -> None:
    viewing = viewing_of([look_of(shop(11))], 11)
    sheet = ActPage(viewing)
    sheet.advice, sheet.is_confirmed = "pageout", True
    effect = pageout_of(97)
    viewing.answers[EFFECT] = Report(effect, PAGE)
    assert text_of(sheet.draw(80, 21))[-1] == " Watching for 10 s what comes back ... Esc ends that."
    assert sheet.keys == (("Esc", "stop, and back"),)
    came = Refaults(10.0, 97, 0, 0, (), (), effect.moved, stopped="", gone=False)
    viewing.answers[EFFECT] = Report(effect, PAGE, refaults=came)
    lines = text_of(sheet.draw(80, 21))
    assert not any("Watching" in line for line in lines)
    assert any("never came back" in line or "did not come back" in line for line in lines)
    assert sheet.keys == (("Esc", "back"),)


def test_a_vma_is_called_what_the_other_pages_call_it() -> None:
    item = vma_at(Random(1), 1)
    vma = replace(item.vma, path=SHARED_ANON, kind="shmem")
    item = replace(item, vma=vma)
    viewing = viewing_of([look_of(seen(11, [item]))], 11)
    viewing.address = vma.start
    text = text_of(ActPage(viewing).draw(80, 21))[1]
    assert text.startswith(f" the VMA shared anon at {vma.start:#014x}, ")
    assert VmaNames([item]).of(vma.start, vma.end) == ("shared anon", 0)
