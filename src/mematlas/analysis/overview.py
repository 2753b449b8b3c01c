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
    candidates: Iterable[tuple[int, int]], measure: Callable[[int], tuple[str, Usage]], count: int
) -> list[Ranked]:
    """Return the ``count`` processes with the largest USS, of those that can be measured.

    ``candidates`` are (resident bytes, PID). A process's USS is no more than what is resident, so they are
    measured from the largest down, and no further than where even all of it would not be enough.
    """
    ranked: list[Ranked] = []
    for rss, pid in sorted(candidates, reverse=True):
        if len(ranked) >= count and rss < (ranked[count - 1].usage.uss or 0):
            break
        try:
            ranked.append(Ranked(pid, *measure(pid)))
        except Error:
            continue  # ended meanwhile, or not ours to look at
        ranked.sort(key=lambda one: one.usage.uss or 0, reverse=True)
    return ranked[:count]
