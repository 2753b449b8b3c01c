"""Which of some names was perhaps meant by one that nobody has. They are to be suggested, never acted on."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SUGGESTED = 3
"""Names that are suggested where there is none of the one that was given."""


def nearest(text: str, names: Iterable[str]) -> list[str]:
    """Return the names that are most like a text.

    >>> nearest("shpo", ["cat", "shop", "Shop", "shpooler"])
    ['shpooler', 'Shop', 'shop']
    """
    ranked = sorted((rank, name) for name in set(names) if (rank := nearness(text, name)))
    return [name for _, name in ranked[:SUGGESTED]]


def nearness(text: str, name: str) -> int:
    """Return 1 where a text is a name but for its case, 2 where it begins it, 3 where it is one typo away, or 0.

    >>> nearness("Shop", "shop"), nearness("sho", "shop"), nearness("shpo", "shop"), nearness("cat", "shop")
    (1, 2, 3, 0)
    """
    text, name = text.lower(), name.lower()
    if text == name:
        return 1
    if name.startswith(text):
        return 2
    return 3 if len(text) > 1 and is_one_typo(text, name) else 0


def is_one_typo(text: str, name: str) -> bool:
    """Whether a text has one letter more, less, other or exchanged with the next.

    >>> [is_one_typo(text, "shop") for text in ("shopp", "shp", "stop", "hsop", "sh")]
    [True, True, True, True, False]
    """
    start = 0
    while text[start : start + 1] == name[start : start + 1] != "":
        start += 1
    rest, wanted = text[start:], name[start:]
    is_swapped = rest[1::-1] == wanted[:2] and rest[2:] == wanted[2:]
    return is_swapped or rest[1:] in (wanted, wanted[1:]) or rest == wanted[1:]
