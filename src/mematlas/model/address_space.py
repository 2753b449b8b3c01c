"""The VMAs of one process as a whole: found by address, chosen by name, and the gaps between them."""

from __future__ import annotations

from mematlas.errors import BadInput, did_you_mean
from mematlas.frozen import record
from mematlas.kernel.maps import KINDS, Vma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class AddressSpace:
    """The VMAs of a process, in address order, none overlapping.

    >>> from mematlas.kernel.maps import parse_maps
    >>> space = AddressSpace(parse_maps([b"1000-3000 r--p 0 00:00 0", b"4000-5000 rw-p 0 00:00 0 [heap]"]))
    >>> space.find(0x2fff).start, space.find(0x3000)
    (4096, None)
    >>> [(hex(start), hex(end)) for start, end in space.gaps()]
    [('0x3000', '0x4000')]
    """

    def __init__(self, vmas: list[Vma], mark: int | None = None) -> None:
        self.vmas = vmas
        self.mark = mark
        """That of what was read, see `mematlas.kernel.maps.read_mark`."""
        self._starts = [vma.start for vma in vmas]

    def find(self, address: int) -> Vma | None:
        """Return the VMA that an address lies in."""
        from bisect import bisect_right

        index = bisect_right(self._starts, address) - 1
        return self.vmas[index] if index >= 0 and address < self.vmas[index].end else None

    def name_at(self, address: int) -> str:
        """Return the path, or the kind, of the VMA that an address lies in; nothing where it lies in none."""
        vma = self.find(address)
        return (vma.path or vma.kind) if vma else ""

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges between VMAs, where any access is a segmentation fault."""
        for low, high in zip(self.vmas, self.vmas[1:], strict=False):
            if low.end < high.start:
                yield low.end, high.start

    def pieces(self, start: int, end: int) -> list[tuple[Vma, int, int]]:
        """Return the VMAs that a range touches, each with the part of the range that lies in it."""
        from bisect import bisect_right

        first = max(bisect_right(self._starts, start) - 1, 0)
        touched = self.vmas[first : bisect_right(self._starts, end - 1)]
        return [(vma, max(start, vma.start), min(end, vma.end)) for vma in touched if vma.end > start]


def parts(space: AddressSpace, start: int, end: int) -> Iterator[tuple[int, int, Vma | None]]:
    """Yield a range cut at the VMAs in it; None stands for the gaps."""
    for vma, low, high in space.pieces(start, end):
        if start < low:
            yield start, low, None
        yield low, high, vma
        start = high
    if start < end:
        yield start, end, None


@record
class Selection:
    """Which VMAs are asked for. Everything that is given must hold.

    >>> Selection(perms="rw", span=(0x1000, 0x3000))
    Selection(perms='rw', span=(4096, 12288))
    """

    perms: str | None = None
    """``rwx``: these letters must be set. ``r--p``, all four: exactly these."""
    kinds: frozenset[str] | None = None
    path: str | None = None
    """A part of the path."""
    name: str | None = None
    """A kind, a VMA's name, or a part of a path."""
    span: tuple[int, int] | None = None
    """Addresses, of which a VMA has some. To acts it means these pages alone."""

    def __repr__(self) -> str:
        fields = {name: getattr(self, name) for name in self.__match_args__}
        texts = [f"{name}={value!r}" for name, value in fields.items() if value is not None]
        return f"Selection({', '.join(texts)})"

    def matches(self, vma: Vma) -> bool:
        """Whether a VMA is asked for."""
        return (
            (self.perms is None or perms_match(vma.perms, self.perms))
            and (self.kinds is None or vma.kind in self.kinds)
            and (self.path is None or self.path in vma.path)
            and (self.name is None or is_called(vma, self.name))
            and (self.span is None or (vma.start < self.span[1] and self.span[0] < vma.end))
        )


EVERYTHING = Selection()


def parse_kinds(text: str) -> frozenset[str]:
    """Return the kinds in a list such as ``heap,stack``."""
    kinds = frozenset(text.split(","))
    if wrong := kinds.difference(KINDS):
        named, hint = ", ".join(sorted(wrong)), did_you_mean(min(wrong), KINDS)
        raise BadInput(f"no such kind: {named}{hint}; choose from {', '.join(KINDS)}")
    return kinds


def parse_perms(text: str) -> str:
    """Return the letters of a permission filter, checked."""
    if not text or not set(text) <= set("rwxps-"):
        raise BadInput(f"bad permissions {text!r}: letters of rwx, p or s; or all four, such as r--p")
    return text


def perms_match(perms: str, wanted: str) -> bool:
    """Whether a VMA's rights are those wanted: all four characters exactly, or each letter given."""
    if len(wanted) == 4:
        return perms == wanted
    return set(wanted) <= {*perms, "-"}


def parse_range(text: str, page_size: int) -> tuple[int, int] | None:
    """Return the addresses that ``ADDR``, ``ADDR+LEN`` or ``START-END`` name; None when it is none of these.

    An address alone is its page. Addresses are hexadecimal, with or without 0x; a length is a number of bytes with
    an optional K, M or G.

    >>> parse_range("0x1000+8K", 4096)
    (4096, 12288)
    >>> parse_range("[heap]", 4096) is None
    True

    Raises:
        BadInput: the range is empty, or begins with 0x, so that it can be nothing else, and is no range.
    """
    first, plus, length = text.partition("+")
    if not plus:
        first, minus, last = text.partition("-")
    start = parse_address(first)
    end: int | None = None
    if start is not None:
        if plus:
            size = parse_size(length)
            end = None if size is None else start + size
        elif minus:
            end = parse_address(last)
        else:
            start -= start % page_size
            end = start + page_size
    if start is None or end is None:
        if text[:2] in ("0x", "0X"):
            raise BadInput(f"bad address or range {text!r}: try 0x1000, 0x1000+8K or 0x1000-0x3000")
        return None
    if end <= start:
        raise BadInput(f"{text} is an empty range")
    return start, end


HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def parse_address(text: str) -> int | None:
    """Return a hexadecimal address, with or without 0x; None when it is none.

    Without the 0x it must have a digit in it, so that ``dead`` stays a name.
    """
    has_prefix = text[:2] in ("0x", "0X")
    digits = text[2:] if has_prefix else text
    # int() would take signs, blanks, underscores and other scripts' digits as well.
    if not digits or not HEX_DIGITS.issuperset(digits):
        return None
    if not has_prefix and digits.isalpha():
        return None
    address = int(digits, 16)
    return address if address < 1 << 64 else None


def parse_size(text: str) -> int | None:
    """Return a number of bytes: decimal or 0x, then K, M, G or T for powers of 1024.

    >>> parse_size("4K"), parse_size("0x1000"), parse_size("lots")
    (4096, 4096, None)
    """
    unit = text[-1:].upper()
    shift = {"K": 10, "M": 20, "G": 30, "T": 40}.get(unit, 0)
    try:
        number = int(text[:-1] if shift else text, 0)
    except ValueError:
        return None
    return number << shift if number >= 0 else None


def is_called(vma: Vma, name: str) -> bool:
    """Whether a VMA is called so: by its kind, or by its path or a part of that."""
    if name in KINDS and vma.kind == name:
        return True
    return bool(name) and (name in vma.path or name.strip("[]") == vma.path.strip("[]"))
