"""Makes inputs out of real ones: each mutation is a function of a random number generator and the bytes so far."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

MOST = 1 << 16
"""Bytes of an input."""

BORDERS = [0, 1, 7, 4095, 4096] + [
    (1 << bits) + near for bits in (8, 16, 31, 32, 47, 52, 56, 63, 64, 65, 128) for near in (-1, 0, 1)
]
NUMBERS = [
    *(b"%d" % number for number in BORDERS),
    *(b"%x" % number for number in BORDERS),
    *(b"", b"-", b"-1", b"+1", b"1_0", b"0x10", b"0b1", b"007", b"1.5", b"1e9", b"1e999", b"nan", b"inf", b"1 1"),
    # More digits than Python turns into a number, and those of other scripts.
    *(b"9" * 5000, b"f" * 5000, b"0" * 5000 + b"1"),
    *("٣".encode(), "１２".encode(), "²".encode(), "𝟗".encode()),
]
PIECES = [
    *(b"\0", b"\xff", b"\xc3", b"\xed\xb3\xbf", b"\xf4\x90\x80\x80", b"\x1b[31m", b"\x9b", "\u202e".encode()),
    *(b" ", b"\t", b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"\n", b"\n\n"),
    *(b":", b"=", b"-", b"+", b",", b"/", b"(", b")", b"[", b"]", b"\\", b"\\012", b"\\040", b" (deleted)", b" kB"),
    *(b"%s", b"{", b"}", b'"', b"null", b"true", b"[[[[", b'{"a":', b"*", b"~", b"..", b"**", b"<<"),
]
NUMBER = re.compile(rb"[0-9a-f]*[0-9][0-9a-f]*")
WORD = re.compile(rb"\S+")

Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]


def mutate(random: Random, corpus: Sequence[bytes], mutations: Sequence[Mutation]) -> bytes:
    """Return one of a corpus, changed once or some times."""
    data = random.choice(corpus)
    for _ in range(1 + min(int(random.expovariate(0.6)), 7)):
        # Cut each time: what is repeated again and again would be without a bound.
        data = random.choice(mutations)(random, data, corpus)[:MOST]
    return data


def span(random: Random, size: int) -> tuple[int, int]:
    """Return a stretch of something of a size, mostly a short one."""
    low = random.randrange(size + 1)
    longest = size - low if random.random() < 0.1 else min(size - low, 16)
    return low, low + random.randint(0, longest)


def with_match(random: Random, data: bytes, pattern: re.Pattern[bytes], fresh: Callable[[bytes], bytes]) -> bytes:
    """Return the data with one match of a pattern replaced: the next one after a random place."""
    start = random.randrange(len(data) + 1)
    found = pattern.search(data, start) or pattern.search(data)
    return data[: found.start()] + fresh(found[0]) + data[found.end() :] if found else data


# --- of any bytes


def change_byte(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    place = random.randrange(len(data) + 1)
    return data[:place] + bytes((random.randrange(256),)) + data[place + 1 :]


def insert_piece(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    place = random.randrange(len(data) + 1)
    return data[:place] + random.choice(PIECES) + data[place:]


def remove(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    low, high = span(random, len(data))
    return data[:low] + data[high:]


def repeat(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    low, high = span(random, len(data))
    return data[:low] + data[low:high] * random.choice((2, 2, 3, 10, 300)) + data[high:]


def cut(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    place = random.randrange(len(data) + 1)
    return data[:place] if random.random() < 0.8 else data[place:]


def splice(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    other = random.choice(corpus)
    low, high = span(random, len(other))
    place = random.randrange(len(data) + 1)
    return data[:place] + other[low:high] + data[place:]


# --- of text


def change_number(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    return with_match(random, data, NUMBER, lambda _: random.choice(NUMBERS))


def near_number(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Change a number a little, so that ranges overlap, turn round, or become empty."""
    step = random.choice((-4096, -1, 1, 4096))
    return with_match(random, data, NUMBER, lambda text: b"%x" % max(int(text[:40], 16) + step, 0))


def change_word(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    pick = random.randrange(3)
    return with_match(
        random, data, WORD, lambda word: (b"", word + b" " + word, random.choice(PIECES + NUMBERS[:8]))[pick]
    )


def change_lines(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Drop, double, move, join, or cut a line."""
    lines = data.split(b"\n")
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(other, lines[at])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at : at + 2] = [b"".join(lines[at : at + 2])]
        case 4:
            lines[at] = lines[at][: random.randrange(len(lines[at]) + 1)]
        case _:
            lines[at:at] = [lines[at]] * random.choice((2, 50))
    return b"\n".join(lines)


# --- of numbers in binary


def change_number_of(size: int) -> Mutation:
    """Return a mutation that puts another number of so many bytes in place of one, where one may be."""

    def change(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
        if len(data) < size:
            return data
        place = random.randrange(len(data) // size) * size
        if random.random() < 0.5:
            number = random.choice(BORDERS) * random.choice((1, 1, 8, 4096))
        else:
            # A number that stands elsewhere in it, or is near to what was here: a place, a count, a type.
            source = random.choice((place, random.randrange(len(data) // size) * size))
            number = int.from_bytes(data[source : source + size], "little") + random.choice((-8, -1, 0, 1, 8))
        word = (number % (1 << 8 * size)).to_bytes(size, "little")
        return data[:place] + word + data[place + size :]

    return change


ANY: tuple[Mutation, ...] = (change_byte, insert_piece, remove, repeat, cut, splice)
TEXT: tuple[Mutation, ...] = (*ANY, change_number, change_number, near_number, change_word, change_lines, change_lines)
BINARY: tuple[Mutation, ...] = (*ANY[:5], *(change_number_of(size) for size in (1, 2, 4, 4, 4, 8, 8, 8)))
