"""VMAs that lie side by side, and are small: they are read in one go, which takes hardly longer than one of them."""

from __future__ import annotations

from mematlas.kernel.maps import ANON_KINDS
from mematlas.kernel.pagemap import ENTRY_SIZE, GAP, LAST_ADDRESS, Block

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mematlas.kernel.maps import Vma


def runs_of(vmas: Iterable[Vma], page_size: int, most: int) -> Iterator[list[Vma]]:
    """Yield VMAs in runs that span ``most`` pages at the most, each alone that is no part of one.

    What else is asked about the pages of a run is asked once: see `key_of`. None of them has room for a huge entry.

    >>> from mematlas.kernel.maps import parse_maps
    >>> vmas = parse_maps([b"%x000-%x000 rw-p 0 00:00 0" % span for span in ((1, 3), (3, 4), (5, 6), (4096, 8192))])
    >>> [len(run) for run in runs_of(vmas, 4096, 512)]
    [3, 1]
    """
    per_table = page_size // ENTRY_SIZE * page_size
    gap, room = GAP * page_size, most * page_size
    run: list[Vma] = []
    key: object = None
    limit = reach = 0
    """The address where the run must end, and that up to which the next VMA may begin."""
    for vma in vmas:
        start, end, its_key = vma.start, vma.end, key_of(vma)
        if -(-start // per_table) * per_table + per_table <= end or end > LAST_ADDRESS:
            its_key = None
        if its_key is None or its_key != key or start > reach or end > limit:
            if run:
                yield run
            run, key, limit = [], its_key, start + room
        run.append(vma)
        reach = end + gap
    if run:
        yield run


def key_of(vma: Vma) -> object:
    """Return what VMAs of a run have in common; None for one that is part of none."""
    kind, sharing = vma.kind, vma.perms[3:]
    if kind in ANON_KINDS:
        return "anon", sharing
    if kind == "file":
        return kind, sharing
    if kind != "shmem":
        return None
    # Their file is asked about all of them at once: see `mematlas.kernel.backing.tables_for` for what it is asked.
    shows_file = sharing == "s" or "w" not in vma.perms
    return kind, sharing, shows_file, vma.dev, vma.inode, vma.path, vma.offset - vma.start


def read_runs(
    vmas: Iterable[Vma], page_size: int, most: int, read: Callable[[list[Vma]], Block | None]
) -> Iterator[tuple[list[Vma], Block | None]]:
    """Yield the runs of `runs_of` with what ``read`` returns of each: one block of all their pages.

    A VMA that is no part of one comes alone and with None, as those do of which there is no such block.
    """
    for run in runs_of(vmas, page_size, most):
        if len(run) > 1 and (block := read(run)):
            yield run, block
        else:
            yield from (([vma], None) for vma in run)


def joined(blocks: Iterable[Block], start: int, end: int, page_size: int) -> Block:
    """Return the blocks of a range, each with the use of its pages, as one block of all of it."""
    nr_pages = (end - start) // page_size
    raw, states, use = bytearray(nr_pages * ENTRY_SIZE), bytearray(nr_pages), bytearray(nr_pages)
    for block in blocks:
        first = (block.address - start) // page_size
        last = first + len(block)
        raw[first * ENTRY_SIZE : last * ENTRY_SIZE] = block.raw
        states[first:last], use[first:last] = block.states, block.use or bytes(len(block))
    return Block(start, memoryview(raw), bytes(states), use=bytes(use))


def cut(run: list[Vma], block: Block, page_size: int) -> Iterator[tuple[Vma, int, int]]:
    """Yield each VMA of a run with the indexes of its first page, and of one past its last, in the run's block."""
    first = block.address
    for vma in run:
        yield vma, (vma.start - first) // page_size, (vma.end - first) // page_size
