"""Findings of an audit, put together for people: neighbours that say the same are one."""

from __future__ import annotations

from mematlas.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.analysis.pagetables.summary import Finding


def join_neighbours(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by address; those that follow one another, at both addresses of an alias, as one.

    Where in memory their pages are makes no difference: the physical address is that of the first.
    """
    joined: list[Finding] = []
    places: dict[tuple[object, ...], int] = {}
    for finding in sorted(findings, key=lambda finding: finding.start):
        alike = (finding.kind, finding.rights, finding.other_rights)
        place = places.pop((*alike, finding.start, finding.other), None)
        if place is None:
            place = len(joined)
            joined.append(finding)
        else:
            joined[place] = replace(joined[place], size=joined[place].size + finding.size)
        whole = joined[place]
        end = None if whole.other is None else whole.other + whole.size
        places[*alike, whole.start + whole.size, end] = place
    return joined
