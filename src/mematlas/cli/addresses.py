"""Addresses as people type them: hexadecimal, and nothing that could be decimal as well."""

from __future__ import annotations

from mematlas.errors import BadInput
from mematlas.model.address_space import HEX_DIGITS, parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DECIMAL_DIGITS = frozenset("0123456789")
MOST_DIGITS = 20
"""Of a decimal address of 64 bits."""


def addresses_of(words: Sequence[str]) -> list[int]:
    """Return the addresses that words are. One that is plainly hexadecimal, without 0x, tells how the others are meant.

    >>> [hex(address) for address in addresses_of(["7f3c1a2b4010", "401000"])]
    ['0x7f3c1a2b4010', '0x401000']
    """
    is_plain = any(map(is_bare_hexadecimal, words))
    return [address_of(word, is_plain) for word in words]


def is_kernel_address(word: str) -> bool:
    """Whether a word is an address rather than a target: it has a 0x, or no PID and no name is like it."""
    address = parse_address(word)
    return address is not None and (word[:2] in ("0x", "0X") or address >= 1 << 63)


def address_of(word: str, is_hexadecimal: bool = False) -> int:
    """Return the address that a word is.

    Raises:
        BadInput: it is none; or, unless it ``is_hexadecimal``, it has two readings.
    """
    if not is_hexadecimal:
        refuse_two_readings(word)
    address = parse_address(word)
    if address is not None:
        return address
    digits = word.lower().removeprefix("0x")
    if len(digits) > 16 and HEX_DIGITS.issuperset(digits):
        raise BadInput(f"{word} is beyond the address space: an address has at most 64 bits")
    raise BadInput(f"bad address {word!r}: hexadecimal, such as 0x7f3c1a2b4010")


def refuse_two_readings(text: str, more: str = "") -> None:
    """Refuse an address, or a range of two, that is as good in decimal; ``more`` is what else to say.

    >>> refuse_two_readings("0x401000"), refuse_two_readings("00401000-00402000"), refuse_two_readings("401000-4fe000")
    (None, None, None)
    """
    first, plus, length = text.partition("+")
    parts = [first] if plus else first.split("-", 1)
    if not all(map(is_ambiguous, parts)):
        return
    tail = plus + length
    as_decimal = "-".join(f"{int(part):#x}" for part in parts) + tail
    if any(parse_address(part) is None for part in parts):
        raise BadInput(f"{text} is beyond the address space; if it is decimal, type {as_decimal}")
    as_hexadecimal = "-".join(f"0x{part}" for part in parts) + tail
    raise BadInput(f"{text} could be {as_hexadecimal}, or decimal, which is {as_decimal}: type one of these{more}")


def is_ambiguous(word: str) -> bool:
    """Whether a word is a number in decimal and, another one, in hexadecimal. Nobody writes decimals with a 0 first."""
    return 1 < len(word) <= MOST_DIGITS and DECIMAL_DIGITS.issuperset(word) and word[0] != "0"


def is_bare_hexadecimal(word: str) -> bool:
    """Whether a word is a hexadecimal address without 0x, and no decimal number."""
    if word[:2] in ("0x", "0X") or DECIMAL_DIGITS.issuperset(word):
        return False
    return parse_address(word) is not None
