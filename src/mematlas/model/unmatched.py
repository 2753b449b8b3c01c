"""What to say when no VMA of a process is the one that was asked for."""

from __future__ import annotations

from mematlas.errors import BadInput, did_you_mean
from mematlas.kernel.maps import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.model.address_space import AddressSpace, Selection


def no_vma(who: str, space: AddressSpace, selection: Selection) -> BadInput:
    """Return the error about a selection that matches no VMA of a process, with what there is instead.

    >>> from mematlas.kernel.maps import parse_maps
    >>> from mematlas.model.address_space import AddressSpace, Selection
    >>> space = AddressSpace(parse_maps([b"1000-3000 r--p 0 00:00 0", b"4000-5000 rw-p 0 00:00 0 [heap]"]))
    >>> print(no_vma("sh (7)", space, Selection(name="hep")))
    sh (7) has no VMA matching 'hep' (did you mean heap?)
    >>> print(no_vma("sh (7)", space, Selection(name="libz")))
    sh (7) has no VMA matching 'libz'; it has heap, anon
    >>> print(no_vma("sh (7)", space, Selection(span=(0x9000, 0x9001))))
    0x9000 is not mapped in sh (7); the nearest VMA is 0x4000-0x5000 [heap]
    >>> print(no_vma("sh (7)", space, Selection(span=(0x1000, 0x1001), perms="w")))
    sh (7) has no VMA matching 0x1000 and --perms w
    """
    name, span = selection.name, selection.span
    where = format_span(*span) if span else ""
    if span and space.vmas and not space.pieces(*span):
        start, end = span
        near = min(space.vmas, key=lambda vma: max(vma.start - end, start - vma.end))
        what = f"{format_span(near.start, near.end)} {near.path or near.kind}"
        return BadInput(f"{where} is not mapped in {who}; the nearest VMA is {what}")
    wanted = [
        repr(name) if name is not None else "",
        where,
        f"--kind {','.join(sorted(selection.kinds))}" if selection.kinds else "",
        f"--perms {selection.perms}" if selection.perms else "",
        f"--path {selection.path!r}" if selection.path else "",
    ]
    hint = "" if name is None else did_you_mean(name, names_of(space)) or what_there_is(space)
    return BadInput(f"{who} has no VMA matching {' and '.join(filter(None, wanted))}{hint}")


def format_span(start: int, end: int) -> str:
    """Return a range of addresses as it is typed; of a single byte, its address."""
    return f"{start:#x}" if end == start + 1 else f"{start:#x}-{end:#x}"


def kinds_of(space: AddressSpace) -> list[str]:
    """Return the kinds that there are VMAs of."""
    there = {vma.kind for vma in space.vmas}
    return [kind for kind in KINDS if kind in there]


def names_of(space: AddressSpace) -> list[str]:
    """Return what VMAs are found by, each once: their kinds, and the last parts of their paths."""
    paths = (vma.path.rpartition("/")[2] for vma in space.vmas if vma.path)
    return list(dict.fromkeys([*kinds_of(space), *paths]))


def what_there_is(space: AddressSpace) -> str:
    """Return the end of a message: the kinds of VMAs instead of that which there is none of."""
    kinds = ", ".join(kinds_of(space))
    return f"; it has {kinds}" if kinds else ""
