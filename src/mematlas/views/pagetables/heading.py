"""What stands above every result of page tables: whose they are, and how they were read."""

from __future__ import annotations

from mematlas.views.format import fold, format_path, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from mematlas.analysis.pagetables.results import WalkReading

    Lines = Iterator[str]

MEANINGS = {
    "special": "vvar or device memory, which pagemap does not show",
    "guard": "guard marker",
    "migration": "being migrated",
    "race": "changed meanwhile: read again, both agree",
    "presence": "one says present, the other not",
    "swap": "one says swapped, the other not",
    "frame": "another frame",
    "slot": "another swap slot",
    "uffd-wp-marker": "marker in hugetlb memory, which pagemap does not show",
    "poison": "poisoned hugetlb memory, which pagemap does not show",
    "hidden": "the same, but the frame or slot is hidden: needs CAP_SYS_ADMIN",
}
"""Why tables and pagemap say different things of a page."""


def walk_target(who: dict[str, Any], reading: WalkReading | None) -> dict[str, Any]:
    """Return the ``target`` of a result: who, and how the tables were read, when they were."""
    if reading is None:
        return who
    origin = reading.origin
    return {
        **who,
        "reader": origin.reader,
        "paging": origin.mode.name,
        "pgd": None if origin.pgd is None else f"{origin.pgd:#x}",
        "duration_s": round(reading.duration_s, 6),
        "torn": reading.torn,
    }


def folded(line: str, width: int) -> list[str]:
    """Return a line, as several where the screen is narrower."""
    return fold(line, width) if width else [line]


def heading(target: dict[str, Any], halves: Iterable[str], width: int = 0) -> list[str]:
    """Return the line above a result, as several where the screen is narrower."""
    name, half = format_path(target["name"]), " and ".join(halves)
    line = f"{name}, PID {target['pid']}: {target['paging']}, {half} half"
    line += f", top table at {target['pgd']}" if target["pgd"] else ""
    line += f", read with {target['reader']}"
    line += f" in {format_seconds(target['duration_s'])}" if target["duration_s"] else ""
    line += ", torn: what kept changing is left out" if target["torn"] else ""
    if not width:
        return [line]
    first, *others = fold(line, width - 2)
    return [first, *(f"  {other}" for other in others)]
