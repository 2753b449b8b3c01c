"""What is done to a process, in one call each: planned, done, and measured page by page.

All of them count pages, and report them in an `Effect`. They need CAP_SYS_NICE, and for the process of another user
CAP_SYS_PTRACE. Nothing here refuses init or ourselves: `mematlas.actions.refusals` does, where that is wanted.
"""

from __future__ import annotations

from mematlas.actions.acts import act
from mematlas.actions.options import CHUNK_SIZE, MAX_PASSES, Options, never
from mematlas.actions.plans import plan
from mematlas.actions.refusals import check_way_back
from mematlas.actions.swap_cache import free_frames
from mematlas.analysis.movable import ALL_PAGES
from mematlas.model.address_space import EVERYTHING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.actions.effects import Effect
    from mematlas.actions.options import Progress, Stop
    from mematlas.analysis.movable import Choice
    from mematlas.model.address_space import Selection
    from mematlas.observe.process import Process


def pageout(
    process: Process,
    selection: Selection = EVERYTHING,
    *,
    choice: Choice = ALL_PAGES,
    nr_coldest: int | None = None,
    free: bool = False,
    passes: int = MAX_PASSES,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress | None = None,
    stop: Stop = never,
) -> Effect:
    """Move pages out of a process: private and shared memory to swap, pages of files back to their files.

    >>> from mematlas import Process, Selection
    >>> with Process(4211) as process:                                      # doctest: +SKIP
    ...     effect = pageout(process, Selection(kinds=frozenset(("heap",))))
    >>> effect.nr_requested, effect.nr_moved, effect.reasons, effect.passes # doctest: +SKIP
    (16384, 16381, {'shared': 3}, 2)

    Args:
        selection: the VMAs, or the addresses, that are meant.
        choice: which of their pages.
        nr_coldest: only so many of the coldest pages.
        free: read back what the swap cache keeps, and page it out once more: then its frames are free.
        passes: how often pages that stay without a reason are advised at most.
        chunk_size: bytes advised in one call, 2 to 32 MiB: so long the target cannot map or unmap.
        progress: called with the pages done and to do.
        stop: asked before each call whether to end, with a report of what was done.

    Raises:
        BadInput: no VMA is selected.
        PermissionDenied: needs CAP_SYS_NICE, and CAP_SYS_PTRACE for the process of another user.
        NotSupported: a kernel before 5.10, with ``free`` before 5.15, a capture, or with ``nr_coldest`` where nothing
            shows which pages are cold.
        ProcessGone: the process ended before anything was done. Later, the effect says so.
    """
    options = Options(passes, chunk_size, exact=free, progress=progress, stop=stop)
    if free:
        check_way_back()
    planned = plan(process, "pageout", selection, choice=choice, nr_coldest=nr_coldest, dirty=False)
    effect = act(process, planned, options)
    return free_frames(process, effect, options) if free else effect


def cold(
    process: Process,
    selection: Selection = EVERYTHING,
    *,
    choice: Choice = ALL_PAGES,
    nr_coldest: int | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress | None = None,
    stop: Stop = never,
) -> Effect:
    """Make pages the first to go when memory is short; nothing leaves RAM now.

    The effect is what smaps says is referenced, before and after, so it names no single pages: ``moved`` is empty.

    >>> from mematlas import Process, Selection
    >>> with Process(4211) as process:                                      # doctest: +SKIP
    ...     effect = cold(process, Selection(kinds=frozenset(("heap",))))
    >>> effect.nr_requested, effect.nr_moved, effect.reasons                # doctest: +SKIP
    (522, 519, {'idle': 3})

    The arguments and errors are those of `pageout`.
    """
    options = Options(chunk_size=chunk_size, progress=progress, stop=stop)
    planned = plan(process, "cold", selection, choice=choice, nr_coldest=nr_coldest)
    return act(process, planned, options)


def willneed(
    process: Process,
    selection: Selection = EVERYTHING,
    *,
    choice: Choice = ALL_PAGES,
    touch: bool = True,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress | None = None,
    stop: Stop = never,
) -> Effect:
    """Bring pages back into RAM, and map those that were in swap.

    ``touch`` reads a byte of each page that is in swap, which needs PTRACE_MODE_ATTACH: the advice alone takes it no
    further than the swap cache, where no entry shows it. Of files the disk may still be reading some pages at the end:
    ``nr_reading``. No more is brought in than there is memory for.

    >>> from mematlas import Process
    >>> with Process(4211) as process:                                      # doctest: +SKIP
    ...     effect = willneed(process)
    >>> effect.nr_requested, effect.nr_moved, effect.nr_reading             # doctest: +SKIP
    (5003, 5003, 0)

    The other arguments, and the errors, are those of `pageout`.
    """
    options = Options(chunk_size=chunk_size, touch=touch, progress=progress, stop=stop)
    return act(process, plan(process, "willneed", selection, choice=choice), options)


def collapse(
    process: Process,
    selection: Selection = EVERYTHING,
    *,
    choice: Choice = ALL_PAGES,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress | None = None,
    stop: Stop = never,
) -> Effect:
    """Put small pages together into huge ones, wherever a whole aligned one fits. Needs Linux 6.1.

    >>> from mematlas import Process, Selection
    >>> with Process(4211) as process:                                      # doctest: +SKIP
    ...     effect = collapse(process, Selection(kinds=frozenset(("heap",))))
    >>> effect.nr_requested, effect.nr_moved, effect.reasons                # doctest: +SKIP
    (522, 0, {'unaligned': 522})

    The arguments and errors are those of `pageout`.
    """
    options = Options(chunk_size=chunk_size, progress=progress, stop=stop)
    return act(process, plan(process, "collapse", selection, choice=choice), options)


def undo(
    process: Process,
    effect: Effect,
    *,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress | None = None,
    stop: Stop = never,
) -> Effect:
    """Bring back what a pageout moved, and nothing else.

    >>> from mematlas import Process
    >>> with Process(4211) as process:                                      # doctest: +SKIP
    ...     undo(process, pageout(process)).nr_moved
    16381

    The errors are those of `pageout`.
    """
    options = Options(chunk_size=chunk_size, progress=progress, stop=stop)
    return act(process, plan(process, "willneed", only=effect.moved), options)
