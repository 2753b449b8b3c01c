"""What stands around a page: the machine above it, the screens there are, what it costs, the keys below."""

from __future__ import annotations

from mematlas.frozen import record
from mematlas.tui.drawing import fitted, stacked, width_of_row
from mematlas.version import __version__
from mematlas.views.format import format_message, format_path, format_size, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mematlas.tui.drawing import Row
    from mematlas.tui.page import Page

HEAD, FOOT = 2, 1
"""Rows above a page, and below it."""
LEAST_BAR = 12
LEAST_PLACE = 8
EVERYWHERE = (("s", "snapshot"), ("[ ]", "time"))
OF_WHAT_GOES_ON = (("r", "record"), ("a", "act"))
"""Keys that mean the same on every page, which stand behind its own where there is room."""


@record
class Status:
    """What is said of the screen itself."""

    place: str
    counters: Mapping[str, int]
    """Of the machine at the moment that is looked at."""
    rights: str
    cost: str
    """Empty where nothing goes on that is looked at."""
    when: str
    """``live``, ``frozen``, or which moment."""
    said: str


def split(counters: Mapping[str, int]) -> list[tuple[str, int, str]]:
    """Return what RAM is used for: a word, bytes, and a role; nothing where that is not known.

    >>> split({"MemTotal": 100, "MemFree": 40, "AnonPages": 20, "Shmem": 5, "Cached": 25, "Buffers": 1})
    [('processes', 25, 'own'), ('cache', 21, 'cached'), ('kernel', 14, 'zero'), ('free', 40, 'absent')]
    >>> split({"MemTotal": 100, "MemFree": 40, "AnonPages": 20, "Hugetlb": 30})[:2]
    [('processes', 20, 'own'), ('hugetlb', 30, 'shared')]
    """
    total, free = counters.get("MemTotal"), counters.get("MemFree")
    if not total or free is None:
        return []
    shared = counters.get("Shmem", 0)
    processes = counters.get("AnonPages", 0) + shared
    cache = max(counters.get("Cached", 0) + counters.get("Buffers", 0) - shared, 0)
    pools = counters.get("Hugetlb", 0)
    kernel = max(total - free - processes - cache - pools, 0)
    return [
        ("processes", processes, "own"),
        *([("hugetlb", pools, "shared")] if pools else []),
        ("cache", cache, "cached"),
        ("kernel", kernel, "zero"),
        ("free", free, "absent"),
    ]


def machine_row(status: Status, width: int) -> Row:
    """Return the first row: whose memory, how it is used, and with which rights that is seen."""
    total = status.counters.get("MemTotal", 0)
    parts = split(status.counters)
    title, version = (" mematlas", "title"), (f" {__version__}", "muted")
    place = format_path(status.place)
    right: Row = [(status.rights + " ", "muted")]
    if not parts:
        return between([title, version, (f" · {place}", "text")], right, width)
    free: Row = [(f" · {format_size(total)} ", "text"), (f" free {format_size(parts[-1][1])}", "muted")]
    left: Row = [title, version, (f" · {place}", "text"), free[0]]
    if width_of_row([*left, *free[1:], *right]) >= width:
        # What memory there is, and our rights, say more than which version of what that is.
        room = max(width - width_of_row([title, *free, *right]) - len(" ·  "), LEAST_PLACE)
        return between([title, (f" · {shorten(place, room)}", "text"), *free], right, width)
    words: Row = []
    for word, size, role in parts:
        words += [(f" {word} ", "muted"), (format_size(size), "text" if role == "absent" else role)]
    room = width - width_of_row(left) - width_of_row(words) - width_of_row(right) - 3
    if room < LEAST_BAR:
        words = free[1:]
        room = width - width_of_row(left) - width_of_row(words) - width_of_row(right) - 3
    if room < LEAST_BAR:
        return between([*left, *words], right, width)
    bar = stacked(((size / total, role) for _, size, role in parts[:-1]), min(room, 40))
    return between([*left, *bar, *words], right, width)


def tabs_row(pages: Sequence[Page], page: Page, status: Status, width: int) -> tuple[Row, list[tuple[int, int]]]:
    """Return the row of screens, with from which to which column each is."""
    row: Row = [(" ", "text")]
    places = []
    at = 1
    names = sum(len(one.name) + 4 for one in pages)
    cost = status.cost
    if cost and width < names + len(f" {cost} · {status.when} "):
        cost = cost.rpartition(" · ")[2].removesuffix(" of a core")
    right: Row = [(f"{cost} · " if cost else "", "muted"), (status.when + " ", "title")]
    has_room = width >= names + width_of_row(right) + 1
    for number, one in enumerate(pages, 1):
        name = f" {number} {one.name} " if has_room or one is page else f" {number} "
        row.append((name, "title+cursor" if one is page else "muted"))
        places.append((at, at + len(name)))
        at += len(name)
    return between(row, right, width), places


def foot_row(page: Page, status: Status, width: int) -> Row:
    """Return the last row: what there is to say, or the keys."""
    if status.said:
        return fitted([(" " + format_message(status.said), "text")], width)
    # Who knows no key at all has to find help: it stays when others are left out.
    ends: Row = [] if page.is_sheet else [*key_spans("?", "help"), *key_spans("q", "quit")]
    room = width - width_of_row(ends)
    row: Row = []
    others = () if page.is_sheet else EVERYWHERE + (OF_WHAT_GOES_ON if status.cost else ())
    for key, what in (*page.keys, *others):
        spans = key_spans(key, what)
        if width_of_row([*row, *spans]) > room:
            break
        row += spans
    return fitted([*row, *ends], width)


def key_spans(key: str, what: str) -> Row:
    """Return a key with what it does."""
    return [(f" {key}", "title"), (f" {what} ", "muted")]


def between(left: Row, right: Row, width: int) -> Row:
    """Return what stands left, cut if need be, and what stands right."""
    room = width - width_of_row(right)
    if room < 16:
        return fitted(left, width)
    return [*fitted(left, room), *right]
