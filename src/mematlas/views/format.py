"""How single values are written: sizes, addresses, paths, times. The same everywhere."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEFT_OUT = "..."
"""What stands for the middle of a text that is too long."""
LEAST_HEAD = 4
"""Characters of the beginning of a path that are worth showing."""
UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def format_size(size: int) -> str:
    """Return bytes for people: three digits, or a whole number where it is one, and always the unit.

    >>> format_size(0), format_size(4096), format_size(1536 << 20), format_size(1 << 40)
    ('0', '4 KiB', '1.50 GiB', '1 TiB')
    """
    if abs(size) < 1024:
        return str(size) if size == 0 else f"{size} B"
    value = float(size)
    for unit in UNITS:
        value /= 1024
        if abs(value) < 1023.95 or unit == UNITS[-1]:
            break
    if value == int(value):
        return f"{int(value)} {unit}"
    return f"{value:.{decimals_of(abs(value))}f} {unit}"


def decimals_of(value: float) -> int:
    """Return how many decimals a number below 1000 has when it is written with three digits."""
    if value < 9.995:
        return 2
    return 1 if value < 99.95 else 0


def format_change(change: float) -> str:
    """Return by how many bytes something has changed, with its sign.

    >>> format_change(12 << 20), format_change(-4096), format_change(0)
    ('+12 MiB', '-4 KiB', '0')
    """
    return ("+" if change >= 1 else "") + format_size(round(change))


def format_rate(rate: float) -> str:
    """Return a change in bytes a second.

    >>> format_rate(1.5 * 2**20), format_rate(0.2)
    ('+1.50 MiB/s', '0')
    """
    change = format_change(rate)
    return change if change == "0" else f"{change}/s"


def format_address(address: int) -> str:
    """Return an address as 0x and at least 12 hexadecimal digits, so that columns align.

    >>> format_address(0x55d0c1a2f000)
    '0x55d0c1a2f000'
    """
    return f"0x{address:012x}"


def format_hex(number: int) -> str:
    """Return a number in hexadecimal, as short as it is."""
    return f"{number:#x}"


def format_path(path: str) -> str:
    """Return a path that is safe on a terminal: control characters and bytes outside UTF-8 are written as escapes.

    >>> print(format_path("a\\nb\\x1b"))
    a\\nb\\x1b
    """
    if path.isprintable():
        return path
    return "".join(c if c.isprintable() else escape(c) for c in path)


ID_LENGTH, SHORT_ID = 64, 12
"""Digits of the ID of a container, and as many of them as people use for it."""


def format_id(text: str) -> str:
    """Return the ID of a container as docker and podman show it; any other name as it is.

    >>> format_id("0123456789abcdef" * 4), format_id("web")
    ('0123456789ab', 'web')
    """
    is_long = len(text) == ID_LENGTH and not text.strip("0123456789abcdef")
    return text[:SHORT_ID] if is_long else format_path(text)


def format_message(text: str) -> str:
    r"""Return what an error says, safe on a terminal. What it quotes with `repr` has bytes outside UTF-8 as everywhere.

    >>> print(format_message(f"bad address {chr(0xdcff)!r}"), format_message(f"a name {chr(92) + 'udcff'!r}"))
    bad address '\xff' a name '\\udcff'
    """
    # Runners of GitHub's take what begins so for a command, wherever it stands in a line (ActionCommand.cs).
    text = format_path(text).replace("##[", r"##\x5b")
    if "\\udc" not in text:
        return text
    import re

    return re.sub(r"(?<!\\)((?:\\\\)*)\\udc([89a-f][0-9a-f])", r"\1\\x\2", text)


def format_exact(text: str) -> str:
    """Return a text as `format_path` does, with each backslash of its own doubled: so it can be turned back.

    >>> print(format_exact("a\\\\b\\n"))
    a\\\\b\\n
    """
    return format_path(text.replace("\\", "\\\\"))


def escape(character: str) -> str:
    """Return the escape of one unprintable character: ``\\xNN`` is a byte, be it ASCII or no UTF-8."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code <= 0xFF:
        return f"\\u{code:04x}"
    return character.encode("unicode_escape").decode("ascii")


LONG = 3
"""Of a unit, from which on a time is written in it: 179 s, but 3.0 min."""


def format_seconds(seconds: float) -> str:
    """Return a duration in the unit that suits it.

    >>> format_seconds(0.00005), format_seconds(0.0425), format_seconds(3.2), format_seconds(5400), format_seconds(3e5)
    ('50 us', '42 ms', '3.2 s', '90.0 min', '3.5 d')
    """
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    for unit, size in {"d": 86_400, "h": 3600, "min": 60}.items():
        if seconds >= LONG * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def format_span(seconds: float) -> str:
    """Return a time that somebody has named, in the largest unit that it is a whole number of.

    >>> format_span(600), format_span(90), format_span(0.25), format_span(86_400), format_span(1.5)
    ('10 min', '90 s', '250 ms', '1 d', '1.5 s')
    """
    units = {"d": 86_400, "h": 3600, "min": 60, "s": 1}
    for unit, size in units.items():
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size:,.0f} {unit}"
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1e3:g} ms"


def format_share(share: float) -> str:
    """Return a share of 0 to 1 as percent: 0% for none at all, 100% for all alone.

    >>> format_share(0), format_share(0.001), format_share(0.5), format_share(0.999), format_share(1)
    ('0%', '<1%', '50%', '>99%', '100%')
    """
    percent = round(100 * share)
    if percent == 0 and share:
        return "<1%"
    return ">99%" if percent == 100 and share != 1 else f"{percent}%"


def width_of(text: str) -> int:
    """Return how many columns of a screen a text takes: two a character of Chinese, Japanese or Korean, none an accent.

    >>> width_of("libc.so.6"), width_of("\u65e5\u672c"), width_of("e\u0301")
    (9, 4, 1)
    """
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    return sum(2 if east_asian_width(c) in "WF" else category(c) not in ("Mn", "Me") for c in text)


def widest(cells: Sequence[str]) -> int:
    """Return how many columns the widest of some cells takes; 0 of none."""
    return max(map(len if "".join(cells).isascii() else width_of, cells), default=0)


def padded(cells: Sequence[str], width: int, right: bool) -> list[str]:
    """Return cells that take at least so many columns each.

    >>> padded(["ab", "\u65e5"], 3, right=True) == [" ab", " \u65e5"]
    True
    """
    if "".join(cells).isascii():
        pad = str.rjust if right else str.ljust
        return [pad(cell, width) for cell in cells]
    spaces = [" " * (width - width_of(cell)) for cell in cells]
    pairs = zip(cells, spaces, strict=True)
    return [space + cell if right else cell + space for cell, space in pairs]


def beginning(text: str, width: int) -> str:
    """Return as many of the first characters as these columns have room for."""
    end = min(width, len(text))
    while width_of(text[:end]) > width:
        end -= 1
    return text[:end]


def ending(text: str, width: int) -> str:
    """Return as many of the last characters as these columns have room for."""
    start = max(len(text) - width, 0)
    while width_of(text[start:]) > width:
        start += 1
    return text[start:]


def shorten(text: str, width: int) -> str:
    """Return a text in at most this many columns, its middle left out where it is longer.

    The last part of a path says most, and is kept as long as there is room for it.

    >>> shorten("/usr/lib/x86_64-linux-gnu/libcrypto.so.3", 24), shorten("/usr/lib/jvm/lib/libjimage.so", 18)
    ('/usr/l.../libcrypto.so.3', '.../libjimage.so')
    >>> shorten("/usr/lib/ld-linux-x86-64.so.2", 16), shorten("[heap]", 16)
    ('ld-linu...4.so.2', '[heap]')
    >>> shorten("_ssl.cpython-311-x86_64-linux-gnu.so", 24)
    '_ssl.cpytho...nux-gnu.so'
    """
    if width_of(text) <= width:
        return text
    name = text[max(text.rfind("/"), 0) :]
    head = width - len(LEFT_OUT) - width_of(name)
    if head >= LEAST_HEAD:
        return beginning(text, head) + LEFT_OUT + name
    if head >= 0:
        return LEFT_OUT + name
    name = name.removeprefix("/")
    room = max(width - len(LEFT_OUT), 2)
    return beginning(name, room - room // 2) + LEFT_OUT + ending(name, room // 2)


def format_list(items: list[str] | tuple[str, ...]) -> str:
    """Return names joined by commas; ``-`` when there are none."""
    return ",".join(items) or "-"


def format_amounts(amounts: dict[str, int], sized: Callable[[int], str] = format_size) -> str:
    """Return bytes by name; ``-`` when there are none.

    >>> format_amounts({"shared": 8 << 20, "no swap": 8 << 10})
    '8 MiB shared, 8 KiB no swap'
    """
    return ", ".join(f"{sized(size)} {name}" for name, size in amounts.items()) or "-"


def format_sizes(amounts: dict[int, int]) -> str:
    """Return bytes by a size, such as that of the folios in which they lie.

    >>> format_sizes({4096: 12 << 10, 2 << 20: 4 << 20})
    '4 KiB: 12 KiB, 2 MiB: 4 MiB'
    """
    return ", ".join(f"{format_size(size)}: {format_size(amount)}" for size, amount in amounts.items())


def format_counts(counts: dict[str, int]) -> str:
    """Return counts by name; ``-`` when there are none.

    >>> format_counts({"shared": 3, "zero": 1})
    '3 shared, 1 zero'
    """
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "-"


NR_NAMED = 3
"""Names that a line has room for."""


def first_of(names: Sequence[object]) -> str:
    """Return the first of some names, and how many more there are.

    >>> first_of([7, 8]), first_of(["a", "b", "c", "d"])
    ('7, 8', 'a, b, c and 1 more')
    """
    more = f" and {len(names) - NR_NAMED:,} more" if len(names) > NR_NAMED else ""
    return ", ".join(map(str, names[:NR_NAMED])) + more


def number_of(number: int, noun: str) -> str:
    """Return a number of things.

    >>> number_of(1, "page"), number_of(2097152, "page")
    ('1 page', '2,097,152 pages')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def fold(text: str, width: int) -> list[str]:
    """Return a text as lines of at most this width, broken at spaces and after commas, unless a word is longer.

    >>> fold("shared memory in RAM", 14)
    ['shared memory', 'in RAM']
    >>> fold("private, 4 MiB, shared", 12)
    ['private,', '4 MiB,', 'shared']
    >>> fold("present,writable,user", 17)
    ['present,writable,', 'user']
    """
    lines = [""]
    for spaced in words_of(text):
        space = " "
        for word in spaced.replace(",", ",\0").rstrip("\0").split("\0"):
            longer = f"{lines[-1]}{space}{word}" if lines[-1] else word
            if width_of(longer) <= width or not lines[-1]:
                lines[-1] = longer
            else:
                lines.append(word)
            space = ""
    return lines


HANG = 4
"""Columns by which the further lines of a message stand out from its first."""
LEAST_TAIL = 16
"""Columns that what stands in the last of several columns is folded to at the least."""
TYPED = (": sudo ", ": docker ", ": fallocate ")
"""What a line that a person is to type begins with."""


def fold_message(text: str, width: int) -> list[str]:
    """Return a note or an error as lines for a screen of this width, 0 for any.

    Lines to type are left whole, so that they can be copied, or are broken where a shell reads on.

    >>> fold_message("note: the zero page, nobody's memory", 24)
    ['note: the zero page,', "    nobody's memory"]
    >>> fold_message("all rights: sudo -- /usr/bin/mematlas", 24)
    ['all rights:', '    sudo -- /usr/bin/mematlas']
    >>> fold_message("note: as root: fallocate -l 1M f && mkswap f", 24)
    ['note: as root:', '    fallocate -l 1M f &&', '    mkswap f']
    >>> fold_message("minor  594  it was in RAM already", 26)
    ['minor  594  it was in RAM', '            already']
    """
    if not width or width_of(text) <= width or text.startswith("try: "):
        return [text]
    indent = text[: len(text) - len(text.lstrip(" "))]
    hang = indent + " " * HANG
    if indent and " && " in text:
        return fold_steps(text.strip(), indent, hang)
    head, gap, tail = text.rstrip().rpartition("  ")
    if head.strip():
        head += gap
        parts = fold_words(tail, max(width - len(head), LEAST_TAIL))
        return [head + parts[0], *(" " * len(head) + part for part in parts[1:])]
    ends = [text.index(words) + 1 for words in TYPED if words in text]
    end = min(ends, default=len(text))
    first, *lines = fold_words(text[:end].strip(), width - len(hang))
    folded = [indent + first, *(hang + line for line in lines)]
    if command := text[end:].strip():
        folded += [hang + command] if width_of(hang + command) <= width else fold_steps(command, hang, hang)
    return folded


def fold_steps(command: str, indent: str, hang: str) -> list[str]:
    """Return a line to type as lines that a shell reads on from; the further ones begin with ``hang``."""
    *steps, last = command.split(" && ")
    lines = [*(f"{step} &&" for step in steps), last]
    return [indent + lines[0], *(hang + line for line in lines[1:])]


def fold_words(text: str, width: int) -> list[str]:
    """Return a text as lines of at most this width, broken at spaces, unless a word is longer.

    >>> fold_words("needs CAP_BPF,CAP_PERFMON here", 20)
    ['needs', 'CAP_BPF,CAP_PERFMON', 'here']
    """
    lines = [""]
    for word in words_of(text):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if width_of(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def words_of(text: str) -> list[str]:
    """Return the words of a text; a number and its unit are one, which no line parts.

    >>> words_of("124 MiB no swap, 8 KiB shared (2 GiB)")
    ['124 MiB', 'no', 'swap,', '8 KiB', 'shared', '(2 GiB)']
    """
    words: list[str] = []
    for word in text.split():
        if word[:3] in UNITS and words and words[-1][-1].isdigit():
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


def fold_text(text: str, width: int) -> str:
    """Return paragraphs for a screen of this width, 0 for any. Lines that are indented, or have columns, stay.

    A line that ends a sentence may be followed by a new one.

    >>> print(fold_text("one two\\nthree\\n\\n  four", 14))
    one two three
    <BLANKLINE>
      four
    """
    if not width:
        return text
    lines: list[str] = []
    is_open = False
    for line in text.split("\n"):
        is_text = bool(line) and "  " not in line
        if is_text and is_open:
            lines[-1] += f" {line}"
        else:
            lines.append(line)
        is_open = is_text and not line.endswith((".", ":"))
    folded: list[str] = []
    for line in lines:
        folded += [line] if "  " in line else fold_words(line, width)
    return "\n".join(folded)
