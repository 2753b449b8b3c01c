"""What a whole is made of, as a bar: parts side by side, as wide as they are large, with their names in them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

EDGE = "|"


def shares_bar(parts: Sequence[tuple[str, int]], width: int) -> str:
    """Return a bar of so many columns, given names and sizes; a name ends where its part does.

    A part that is too small for a column has none.

    >>> shares_bar([("anon", 500), ("shmem", 1), ("page cache", 250), ("free", 249)], 25)
    '|anon       |page |free |'
    """
    whole = sum(size for _, size in parts)
    if whole <= 0:
        return ""
    room, done = width - len(EDGE), 0
    texts = []
    for name, size in parts:
        start, end = (round(at * room / whole) for at in (done, done + size))
        done += size
        texts.append(f"{EDGE}{name}"[: end - start].ljust(end - start))
    return "".join(texts) + EDGE
