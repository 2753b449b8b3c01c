"""What to say when no VMA of a process is the one that was asked for."""

from __future__ import annotations

from mematlas.errors import BadInput, did_you_mean
from mematlas.kernel.maps import KINDS
from mematlas.model.address_space import parse_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.model.address_space import AddressSpace, Selection


def no_vma(who: str, space: AddressSpace, selection: Selection) -> BadInput:
    """Return the error about a selection that matches no VMA of a process, with what there is instead.

    >>> from mematlas.kernel.maps import parse_maps
    >>> from mematlas.model.address_space import AddressSpace, Selection
    >>> space = AddressSpace(parse_maps([b"1000-3000 r--p 0 00:00 0", b"4000-5000 rw-p 0 00:00 0 [heap]"]))
    >>> print(no_vma("sh (7)", space, Selection(area="hep")))
    sh (7) has no VMA matching 'hep' (did you mean heap?)
    >>> print(no_vma("sh (7)", space, Selection(area="0x9000")))
    0x9000 is not mapped in sh (7); the nearest VMA is 0x4000-0x5000 [heap]
    >>> print(no_vma("sh (7)", space, Selection(area="0x1000", perms="w")))
    sh (7) has no VMA matching '0x1000' and --perms w
    """
    area = selection.area
    span = None if area is None else parse_range(area, 1)
    if span and space.vmas and not space.pieces(*span):
        start, end = span
        near = min(space.vmas, key=lambda vma: max(vma.start - end, start - vma.end))
        name = near.path or near.kind
        return BadInput(f"{area} is not mapped in {who}; the nearest VMA is {near.start:#x}-{near.end:#x} {name}")
    wanted = [
        repr(area) if area is not None else "",
        f"--kind {','.join(sorted(selection.kinds))}" if selection.kinds else "",
        f"--perms {selection.perms}" if selection.perms else "",
        f"--path {selection.path!r}" if selection.path else "",
    ]
    hint = "" if area is None or span else did_you_mean(area, [*KINDS, *names_of(space)])
    return BadInput(f"{who} has no VMA matching {' and '.join(filter(None, wanted))}{hint}")


def names_of(space: AddressSpace) -> list[str]:
    """Return the last parts of the paths of VMAs, each once."""
    return list(dict.fromkeys(vma.path.rpartition("/")[2] for vma in space.vmas if vma.path))
