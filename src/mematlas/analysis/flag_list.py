"""Lists of flags as people type them: ``w,!nx``, ``lru,!dirty``. What each name means is the caller's."""

from __future__ import annotations

from mematlas.errors import BadInput, did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NOT = ("!", "~")
"""Before a flag that must not be set. Shells take the first for something else where people type; page-types has the
second."""


def parse_flag_list(
    text: str, names: Mapping[str, str], of_what: str, listed: Iterable[str]
) -> tuple[tuple[bool, str], ...]:
    """Return the flags in a list, each by its name, and whether it must be set or must not be.

    ``names`` has what may be typed, and what that stands for; ``listed`` is what a mistake is answered with.

    >>> parse_flag_list("w,!nx,~dirty", {"w": "writable", "nx": "nx", "dirty": "dirty"}, "x86-64", ())
    ((True, 'writable'), (False, 'nx'), (False, 'dirty'))

    Raises:
        BadInput: there is no such flag.
    """
    flags = []
    for word in text.split(","):
        typed = word[1:] if word.startswith(NOT) else word
        name = names.get(typed)
        if name is None:
            there_are = ", ".join(listed)
            is_bit = typed.startswith("bit_") and "bit_0" in names
            hint = " (bit_0 to bit_63)" if is_bit else did_you_mean(typed, names)
            raise BadInput(f"no flag {typed!r} of {of_what}{hint}: {there_are}")
        flags.append((typed == word, name))
    return tuple(flags)
