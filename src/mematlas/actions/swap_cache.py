"""Freeing the frames that the swap cache keeps after a pageout: pages are read back, and paged out once more.

A page that is read back is clean: it keeps its swap slot, and goes out again without being written. Shared memory is
left as it is: it loses its slot each time that it comes back.
"""

from __future__ import annotations

import time

from mematlas.actions.acts import act
from mematlas.actions.effects import Freed, together
from mematlas.actions.options import DEFAULTS, never
from mematlas.actions.plans import plan
from mematlas.analysis.movable import Choice
from mematlas.errors import ProcessGone
from mematlas.frozen import replace
from mematlas.kernel.madvise import drain_batches
from mematlas.kernel.maps import KINDS
from mematlas.kernel.meminfo import read_meminfo
from mematlas.model.address_space import Selection
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.actions.effects import Effect
    from mematlas.actions.options import Options, Stop
    from mematlas.model.page_set import PageSet
    from mematlas.observe.process import Process

PRIVATE = Selection(kinds=frozenset(KINDS).difference(("shmem",)))
SHARED = Selection(kinds=frozenset(("shmem",)))
SWAPPED = Choice(frozenset(("swapped",)))

WRITING, WRITING_LOOKS = 1.0, 0.01
"""Seconds to wait for the next page that is written to swap, and between two looks."""


def free_frames(process: Process, effect: Effect, options: Options = DEFAULTS) -> Effect:
    """Free the frames that the swap cache keeps after a pageout; return the effect of all together."""
    kept = effect.moved if effect.kept is None else effect.kept
    effect = replace(effect, freed=Freed(kept.nr_pages, 0))
    try:
        for number in range(options.passes):
            if effect.stopped or not kept:
                break
            effect, again = free_once(process, effect, kept, options)
            if number == 0 and again.nr_requested < kept.nr_pages:
                effect = replace(effect, notes=(*effect.notes, *why_not_freed(process, kept)))
            if again.kept is None or again.kept.nr_pages >= kept.nr_pages:
                break
            kept = again.kept
    except ProcessGone as error:
        return replace(effect, stopped=str(error), gone=True)
    return effect


def free_once(process: Process, effect: Effect, kept: PageSet, options: Options) -> tuple[Effect, Effect]:
    """Read pages back and page them out; return the effect of all together, and that of paging out."""
    before = time.perf_counter()
    wait_for_writing(process, options.stop)
    read_back = plan(process, "willneed", PRIVATE, choice=SWAPPED, only=kept)
    back = act(process, read_back, options)
    # A page that waits in the batch of a processor is held by that, and its frame would not be freed.
    drain_batches()
    # What is in RAM again goes out again, even when somebody asks us to stop meanwhile.
    to_the_end = replace(options, exact=True, stop=never)
    page_out = plan(process, "pageout", PRIVATE, only=back.moved, dirty=False)
    again = act(process, page_out, to_the_end)
    return together(effect, back, again, time.perf_counter() - before), again


def why_not_freed(process: Process, kept: PageSet) -> list[Note]:
    """Return why some of what the swap cache keeps is left there."""
    nr_shared = plan(process, "willneed", SHARED, choice=SWAPPED, only=kept).nr_requested
    text = f"{nr_shared} pages of shared memory stay in the swap cache: --free cannot free them"
    return [Note("shared-not-freed", text)] if nr_shared else []


def wait_for_writing(process: Process, stop: Stop) -> None:
    """Wait until the machine has written to its disks what it is writing, or gets no further.

    A page that is being written cannot be paged out once more.
    """
    end = time.monotonic() + WRITING
    least = 1 << 63
    while time.monotonic() < end and not stop():
        writing = read_meminfo(process.procfs).get("Writeback", 0)
        if not writing:
            break
        if writing < least:
            least, end = writing, time.monotonic() + WRITING
        time.sleep(WRITING_LOOKS)
