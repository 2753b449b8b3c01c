"""Which pages came back after a pageout: how many by when, and of which VMAs."""

from __future__ import annotations

from mematlas.frozen import record
from mematlas.views.format import format_size, number_of
from mematlas.views.table import Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.actions.refaults import Refaults, VmaRefaults

MAX_VMAS = 12
MAX_POINTS = 10


@record
class Point:
    """How many pages were back by a time."""

    seconds: float
    nr_returned: int


def curve_columns(page_size: int) -> tuple[Column[Point], ...]:
    """Return the columns of the curve."""
    return (
        Column("seconds", "SECONDS", "number", lambda point: round(point.seconds, 3)),
        Column("nr_returned", "BACK", "count"),
        Column("size", "SIZE", "size", lambda point: point.nr_returned * page_size),
    )


def nr_never(item: VmaRefaults) -> int:
    """Return how many pages did not come back, and are not gone."""
    return item.nr_moved - item.nr_returned - item.nr_gone


COLUMNS: tuple[Column[VmaRefaults], ...] = (
    Column("start", "START", "address", lambda item: item.vma and item.vma.start),
    Column("nr_moved", "MOVED", "count"),
    Column("nr_returned", "BACK", "count"),
    Column("nr_never", "NOT BACK", "count", nr_never),
    Column("nr_gone", "GONE", "count", rank=2),
    Column("first_s", "FIRST AT", "number", lambda item: rounded(item.first_s), rank=1),
    Column("last_s", "LAST AT", "number", lambda item: rounded(item.last_s), rank=1),
    Column("kind", "KIND", value=lambda item: item.vma and item.vma.kind, rank=3),
    Column("path", "PATH", "path", lambda item: item.vma and item.vma.path, fallback="kind"),
)


def refault_lines(refaults: Refaults, page_size: int, in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
    """Yield what a watch came to, the curve of the pages that came back, and the VMAs that they belong to."""
    yield from watch_lines(refaults, page_size)
    if refaults.curve:
        points = [Point(seconds, nr_returned) for seconds, nr_returned in thin(refaults.curve)]
        curve = Table("", curve_columns(page_size), points)
        yield from curve.lines(in_bytes=in_bytes, colour=colour, width=width)
    items = sorted(refaults.vmas, key=lambda item: (-item.nr_returned, -item.nr_moved))
    if items:
        vmas = Table("", COLUMNS, items[:MAX_VMAS])
        yield from vmas.lines(in_bytes=in_bytes, colour=colour, width=width)
    if len(items) > MAX_VMAS:
        yield f"... {number_of(len(items) - MAX_VMAS, 'more VMA')}"


def watch_lines(refaults: Refaults, page_size: int) -> Iterator[str]:
    """Yield how long was watched, and what came back, did not, or is gone."""
    share = f" ({refaults.nr_returned / refaults.nr_moved:.1%})" if refaults.nr_moved else ""
    watched = f"watched for {refaults.seconds:.1f} s"
    if refaults.stopped:
        watched += f" ({refaults.stopped})"
    yield f"{watched}: {refaults.nr_returned} of {refaults.nr_moved} pages came back{share}"
    if refaults.nr_never:
        # What did not come back in a shorter time than was asked for is not called cold.
        size = format_size(refaults.nr_never * page_size)
        cold = f": {size} of cold memory" if refaults.is_whole else ""
        yield f"{refaults.nr_never} did not come back in {refaults.seconds:.1f} s{cold}"
    if refaults.nr_gone:
        why = (
            "were freed when the process ended" if refaults.gone else "are gone: given back or unmapped by the process"
        )
        yield f"{refaults.nr_gone} {why}"


def thin(curve: tuple[tuple[float, int], ...]) -> list[tuple[float, int]]:
    """Return a few points of a curve, the last one among them."""
    step = -(-len(curve) // MAX_POINTS)
    return [point for index, point in enumerate(curve) if (len(curve) - 1 - index) % step == 0]


def rounded(seconds: float | None) -> float | None:
    """Return a time to the millisecond."""
    return None if seconds is None else round(seconds, 3)


def refaults_object(refaults: Refaults) -> dict[str, Any]:
    """Return a watch for JSON."""
    return {
        "seconds": round(refaults.seconds, 3),
        "nr_moved": refaults.nr_moved,
        "nr_returned": refaults.nr_returned,
        "nr_never": refaults.nr_never,
        "nr_gone": refaults.nr_gone,
        "curve": [[round(seconds, 3), nr_pages] for seconds, nr_pages in refaults.curve],
        "vmas": list(map(vma_object, refaults.vmas)),
        "never": [[f"{start:#x}", f"{end:#x}"] for start, end in refaults.never.ranges()],
        "stopped": refaults.stopped or None,
    }


def vma_object(item: VmaRefaults) -> dict[str, Any]:
    """Return one VMA of a watch for JSON."""
    return {
        "start": None if item.vma is None else f"{item.vma.start:#x}",
        "path": None if item.vma is None else item.vma.path,
        "nr_moved": item.nr_moved,
        "nr_returned": item.nr_returned,
        "nr_gone": item.nr_gone,
        "first_s": rounded(item.first_s),
        "last_s": rounded(item.last_s),
    }
