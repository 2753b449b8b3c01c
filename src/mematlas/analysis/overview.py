"""The processes that use the most, found without looking at all of them."""

from __future__ import annotations

from mematlas.errors import Error
from mematlas.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mematlas.analysis.usage import Usage


@record
class Ranked:
    """One of the largest processes."""

    pid: int
    name: str
    usage: Usage


def largest(
    candidates: Iterable[tuple[int, int, str]], measure: Callable[[int], Usage], count: int
) -> tuple[list[Ranked], list[int]]:
    """Return the ``count`` processes with the largest USS, and the PIDs that could not be measured.

    ``candidates`` are (resident bytes, PID, name). A process's USS is no more than what is resident, so they are
    measured from the largest down, and no further than where even all of it would not be enough.
    """
    ranked: list[Ranked] = []
    refused: list[int] = []
    for rss, pid, name in sorted(candidates, reverse=True):
        if len(ranked) >= count and rss < (ranked[count - 1].usage.uss or 0):
            break
        try:
            ranked.append(Ranked(pid, name, measure(pid)))
        except Error:
            refused.append(pid)  # ended meanwhile, or not ours to look at
            continue
        ranked.sort(key=lambda one: one.usage.uss or 0, reverse=True)
    return ranked[:count], refused
