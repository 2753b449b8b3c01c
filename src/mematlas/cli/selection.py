"""Which part of an address space: the AREA word and the filters over VMAs, as arguments."""

from __future__ import annotations

from mematlas.cli.addresses import refuse_two_readings
from mematlas.errors import BadInput
from mematlas.frozen import replace
from mematlas.kernel.maps import KINDS
from mematlas.model.address_space import EVERYTHING, Selection, parse_kinds, parse_perms, parse_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session

KIND_TEXTS = {
    "heap": "the heap that brk(2) grows",
    "stack": "the main thread's stack",
    "anon": "private, no file behind it",
    "file": "mapped from a file on disk",
    "shmem": "shared memory, memfd, tmpfs",
    "hugetlb": "pages from the hugetlb pools",
    "vdso": "kernel code that user space calls",
    "vvar": "its data",
    "vsyscall": "legacy system calls",
    "special": "device memory, other kernel mappings",
}
"""The kinds of VMAs, each with what it is."""


def add_selection(arguments: Arguments) -> None:
    """Declare the filters over VMAs."""
    kinds = ", ".join(KINDS)
    arguments.add_more("--perms", type=parse_perms, help="only VMAs with these rights: rw, x, r--p")
    arguments.add_more("--kind", type=parse_kinds, metavar="KIND,...", help=f"only VMAs of these kinds: {kinds}")
    arguments.add_more("--path", help="only VMAs whose path contains PATH")


def selection_of(args: Namespace, session: Session) -> Selection:
    """Return the filters that were given, with the AREA word."""
    area = session.words.pop(0) if session.words else None
    session.no_more_words()
    if area is not None:
        if area.isdecimal() and int(area) in session.procfs.pids():
            raise BadInput(f"one process at a time: {area} is another one (usage takes several)")
        refuse_two_readings(area, f"; for part of a path: --path {area}")
    span = None if area is None else parse_range(area, 1)
    return Selection(perms=args.perms, kinds=args.kind, path=args.path, name=None if span else area, span=span)


def span_of(selection: Selection, session: Session, one_page: bool) -> tuple[int, int, Selection]:
    """Return the addresses that are meant, in whole pages, and the selection without them when they say all of it.

    An address alone is its page where ``one_page``, else its VMA.
    """
    if selection == EVERYTHING:
        return 0, 1 << 64, selection
    page_size = session.process.page_size
    span = selection.span
    space = session.process.address_space()
    if span is None or (not one_page and span[1] == span[0] + 1):
        if not any(selection.matches(vma) for vma in space.vmas):
            raise nothing_matches(selection, session)
        return 0, 1 << 64, selection
    start, end = span[0] - span[0] % page_size, -(-span[1] // page_size) * page_size
    rest = replace(selection, span=None)
    if not any(rest.matches(vma) for vma, _, _ in space.pieces(start, end)):
        raise nothing_matches(selection, session)
    return start, end, rest


def nothing_matches(selection: Selection, session: Session) -> BadInput:
    """Return the error about a selection that no VMA of the target matches."""
    from mematlas.model.unmatched import no_vma

    process = session.process
    return no_vma(f"{process.stat.name} ({process.pid})", process.address_space(), selection)
