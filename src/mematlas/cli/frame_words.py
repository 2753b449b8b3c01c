"""Frames of RAM as people type them: ``pfn:N`` and ``phys:0xN``, and ranges of these."""

from __future__ import annotations

from mematlas.cli.addresses import refuse_two_readings
from mematlas.errors import BadInput
from mematlas.model.address_space import parse_address, parse_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    Span = tuple[int, int]
    """The first frame, and the first after the last."""

PFN, PHYS = "pfn:", "phys:"
FORMS = "try pfn:0x1a2b3c, pfn:0x1a2b3c+16, pfn:100-200 or phys:0x1a2b3c000"
MOST_DIGITS = 20


def parse_frames(word: str, page_size: int) -> Span:
    """Return the frames that a word names.

    >>> parse_frames("pfn:0x10+4", 4 << 10), parse_frames("pfn:16-20", 4 << 10), parse_frames("phys:0x10000", 4 << 10)
    ((16, 20), (16, 20), (16, 17))

    Raises:
        BadInput: it is no frame; or a number alone, which has two readings.
    """
    if word.startswith(PFN):
        return parse_numbers(word)
    if word.startswith(PHYS):
        return parse_addresses(word, page_size)
    number = word.removeprefix("0x")
    if parse_address(f"0x{number}") is not None:
        as_number = word if word.isdecimal() else f"0x{number}"
        readings = f"a frame number, {PFN}{as_number}, or an address, {PHYS}0x{number}"
        raise BadInput(f"{word} could be {readings}: type one of these")
    raise BadInput(f"bad frame {word!r}: {FORMS}")


def parse_numbers(word: str) -> Span:
    """Return the frames that ``pfn:`` and numbers are."""
    text = word.removeprefix(PFN)
    first, plus, number = text.partition("+")
    if not plus:
        first, _, number = text.partition("-")
    start, more = parse_number(first), parse_number(number) if number else None
    if start is None or (more is None and text != first):
        raise BadInput(f"bad frame {word!r}: {FORMS}")
    end = start + 1 if more is None else start + more if plus else more
    if end <= start:
        raise BadInput(f"{word} is an empty range")
    return start, end


def parse_number(text: str) -> int | None:
    """Return a frame number, decimal or with 0x; None when the text is none."""
    if text[:2] == "0x":
        return parse_address(text)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None


def parse_addresses(word: str, page_size: int) -> Span:
    """Return the frames that ``phys:`` and addresses are; one that an address lies in is one of them."""
    text = word.removeprefix(PHYS)
    refuse_two_readings(text)
    span = parse_range(text, page_size)
    if span is None:
        raise BadInput(f"bad address {word!r}: {FORMS}")
    return span[0] // page_size, -(-span[1] // page_size)
