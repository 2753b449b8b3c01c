"""What an advice would do, with nothing done yet.

>>> from mematlas import Process, Selection
>>> with Process(4211) as process:                                          # doctest: +SKIP
...     planned = plan(process, "pageout", Selection(kinds=frozenset(("heap",))))
>>> planned.nr_requested, planned.nr_movable, planned.reasons               # doctest: +SKIP
(16384, 16381, {'shared': 3})
"""

from __future__ import annotations

from mematlas.actions.advice import ADVICE
from mematlas.actions.advice.base import Outlook, Tally
from mematlas.actions.rooms import read_swap_room
from mematlas.analysis.movable import ALL_PAGES, Choice, add_counts, in_order
from mematlas.errors import BadInput
from mematlas.frozen import Record, record, replace
from mematlas.kernel.madvise import check_first_thread
from mematlas.model.address_space import EVERYTHING
from mematlas.model.unmatched import no_vma
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.actions.advice.base import Advice, Piece, Range
    from mematlas.actions.rooms import SwapRoom
    from mematlas.kernel.madvise import AdviceName
    from mematlas.kernel.maps import Vma
    from mematlas.model.address_space import AddressSpace, Selection
    from mematlas.model.page_set import PageSet
    from mematlas.observe.process import Process


@record
class PlannedVma(Record):
    """A VMA, or the part of it that was asked for, with what an advice can do there."""

    vma: Vma
    start: int
    end: int
    nr_requested: int
    nr_movable: int
    nr_needs_swap: int
    """Those of the movable pages that have nowhere to go but swap, where there is room for them."""
    nr_dirty: int | None
    """Those that are of files and not yet written to disk: they leave the process, and stay in RAM. None when that was
    not looked at, or is unknown."""
    reasons: dict[str, int]
    """Why the others will stay, as in `mematlas.analysis.movable.REASONS`."""
    nr_given_up: int | None = 0
    """Those of the movable pages that will be freed, and kept nowhere (MADV_FREE, MAP_DROPPABLE), unless they are
    written to since. None when that was not looked at, or is unknown."""
    nr_without_swap: int = 0
    """Pages that could move if there were more swap; they are no part of the movable ones."""


@record
class Plan(Record):
    """What an advice would do, and what was read of the machine to know that.

    >>> from mematlas import Process
    >>> with Process(4211) as process:                                      # doctest: +SKIP
    ...     planned = plan(process, "pageout")
    >>> planned.nr_requested, planned.nr_movable, planned.reasons           # doctest: +SKIP
    (3480, 2163, {'shared': 1556, 'kernel': 1, 'zero': 1})
    """

    advice: AdviceName
    """``pageout``, ``cold``, ``willneed`` or ``collapse``."""
    selection: Selection
    choice: Choice
    only: PageSet | None
    """Only these pages, when given."""
    vmas: tuple[PlannedVma, ...]
    page_size: int
    room: SwapRoom
    """Where memory without a file can go."""
    notes: tuple[Note, ...]

    @property
    def nr_requested(self) -> int:
        """Pages asked for."""
        return sum(item.nr_requested for item in self.vmas)

    @property
    def nr_movable(self) -> int:
        """Pages that can move."""
        return sum(item.nr_movable for item in self.vmas)

    @property
    def nr_needs_swap(self) -> int:
        """Pages that go to swap, where there is room for them."""
        return sum(item.nr_needs_swap for item in self.vmas)

    @property
    def nr_without_swap(self) -> int:
        """Pages that could move if there were more swap."""
        return sum(item.nr_without_swap for item in self.vmas)

    @property
    def nr_dirty(self) -> int | None:
        """Pages that can leave the process, and will stay in RAM until they are written; None when not known."""
        counts = [item.nr_dirty for item in self.vmas]
        return None if None in counts else sum(filter(None, counts))

    @property
    def nr_given_up(self) -> int | None:
        """Pages that will be freed, and kept nowhere; None when not known."""
        counts = [item.nr_given_up for item in self.vmas]
        return None if None in counts else sum(filter(None, counts))

    @property
    def reasons(self) -> dict[str, int]:
        """Why the others will stay."""
        total: dict[str, int] = {}
        for item in self.vmas:
            add_counts(total, item.reasons)
        return in_order(total)


def plan(
    process: Process,
    advice: AdviceName,
    selection: Selection = EVERYTHING,
    *,
    choice: Choice = ALL_PAGES,
    only: PageSet | None = None,
    nr_coldest: int | None = None,
    dirty: bool = True,
    room: SwapRoom | None = None,
) -> Plan:
    """Return what an advice would do to the VMAs of a selection, to the pages of ``only``.

    The ``span`` of a selection means just these pages, not the whole of each VMA that it touches.

    Args:
        advice: ``pageout``, ``cold``, ``willneed`` or ``collapse``.
        choice: which of the pages.
        only: only these pages.
        nr_coldest: only so many of the coldest pages among those that can move.
        dirty: look which pages of files a pageout would leave in RAM, since they are not written to disk yet.
        room: what can go to swap, when that is not to be looked up.

    >>> from mematlas import Process
    >>> with Process(4211) as process:                                      # doctest: +SKIP
    ...     plan(process, "pageout").nr_movable
    6810

    Raises:
        BadInput: there is no such advice, or no VMA is selected.
        NotSupported: with ``nr_coldest``, where the kernel does not show which pages are cold.
        PermissionDenied: reading another user's process needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
    """
    if advice not in ADVICE:
        raise BadInput(f"no advice {advice!r}: choose from {', '.join(ADVICE)}")
    check_first_thread(process.dir)  # a plan promises nothing that the act could not do
    space = process.address_space()
    with ADVICE[advice](process, choice, only) as asked:
        asked.quiesce()
        wanted = pieces(process, space, selection, only=only)
        if not wanted and only is None:
            raise no_vma(f"{process.stat.name} ({process.pid})", space, selection)
        if nr_coldest is not None:
            only = narrow_to_coldest(asked, wanted, nr_coldest)
            wanted = pieces(process, space, selection, only=only)
        vmas = [plan_vma(asked, piece, dirty) for piece in wanted]
        blind_spots = asked.blind_spots()
        notes = Notes((*asked.all_notes(), *blind_spots))
    if only is None and not blind_spots and not any(item.nr_requested for item in vmas):
        notes.add(Note("nothing-to-do", why_nothing(asked.wanted, choice, len(wanted))))
    room = room or read_swap_room(process.dir)
    asked_for = [item for item in vmas if item.nr_requested]
    chosen = tuple(within(asked_for, room, process.page_size))
    return Plan(
        advice=advice,
        selection=selection,
        choice=choice,
        only=only,
        vmas=chosen,
        page_size=process.page_size,
        room=room,
        notes=tuple(notes),
    )


def narrow_to_coldest(advice: Advice, wanted: Iterable[Piece], nr_pages: int) -> PageSet:
    """Have an advice be about so many of the coldest pages alone; return them."""
    from mematlas.actions.coldest import find_coldest

    coldest = find_coldest(advice, wanted, nr_pages)
    advice.notes.add(coldest.note)
    advice.only = coldest.pages
    return coldest.pages


def pieces(
    process: Process,
    space: AddressSpace,
    selection: Selection,
    *,
    ranges: Iterable[Range] | None = None,
    only: PageSet | None = None,
) -> list[Piece]:
    """Return the VMAs that are asked for, each with the part of it that is."""
    size = process.page_size
    if only is not None:
        ranges = only.ranges()
    elif ranges is None:
        ranges = [selection.span or (0, 1 << 64)]
    # Whole pages: one that is touched by a range belongs to it.
    whole = sorted((start - start % size, end + -end % size) for start, end in ranges)
    chosen: list[Piece] = []
    for start, end in whole:
        for vma, low, high in space.pieces(start, end):
            if chosen and chosen[-1][0] is vma and only is not None:
                chosen[-1] = (vma, chosen[-1][1], high)  # the set itself says which pages between them are meant
            elif selection.matches(vma):
                chosen.append((vma, low, high))
    return chosen


def plan_vma(advice: Advice, piece: Piece, dirty: bool) -> PlannedVma:
    """Return what an advice would do to a part of a VMA."""
    vma, start, end = piece
    tally, outlook = Tally(vma), Outlook(nr_dirty=0 if dirty else None)
    nr_movable = 0
    for address, states, mask in advice.movable(piece, tally):
        nr_movable += mask.count(1)
        advice.foresee(outlook, vma, address, states, mask)
    return PlannedVma(
        vma=vma,
        start=start,
        end=end,
        nr_requested=tally.nr_requested,
        nr_movable=nr_movable,
        nr_needs_swap=outlook.nr_needs_swap,
        nr_dirty=outlook.nr_dirty,
        reasons=in_order(tally.reasons),
        nr_given_up=outlook.nr_given_up,
    )


def within(vmas: Iterable[PlannedVma], room: SwapRoom, page_size: int) -> Iterator[PlannedVma]:
    """Yield what can be done to VMAs, one after the other, as far as there is room in swap."""
    nr_pages = room.size // page_size
    for item in vmas:
        nr_lacking = max(item.nr_needs_swap - nr_pages, 0)
        nr_pages -= item.nr_needs_swap - nr_lacking
        yield replace(
            item,
            nr_movable=item.nr_movable - nr_lacking,
            nr_needs_swap=item.nr_needs_swap - nr_lacking,
            nr_without_swap=nr_lacking,
            reasons=in_order({room.lacking: nr_lacking} | item.reasons),
        )


def why_nothing(wanted: str, choice: Choice, nr_vmas: int) -> str:
    """Return why nothing is asked for, though VMAs are selected.

    >>> why_nothing("in RAM", Choice(file=True), 3)
    'nothing to do: the 3 selected VMAs have no file pages in RAM'
    >>> why_nothing("out of RAM", Choice(frozenset(("swapped",))), 1)
    'nothing to do: the selected VMA has no pages out of RAM in state swapped'
    """
    whose = "the selected VMA has" if nr_vmas == 1 else f"the {nr_vmas} selected VMAs have"
    pages = "file pages" if choice.file else "pages"
    if choice.anon:
        pages = "anonymous pages"
    state = f" in state {' or '.join(sorted(choice.states))}" if choice.states is not None else ""
    return f"nothing to do: {whose} no {pages} {wanted}{state}"
