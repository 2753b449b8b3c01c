"""VMAs that have something in common, with what they are together."""

from __future__ import annotations

from mematlas.analysis.usage import total, total_by_node
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mematlas.analysis.results import VmaUsage
    from mematlas.analysis.usage import Usage
    from mematlas.model.nodes import Sizes

NAME_BY: dict[str, Callable[[VmaUsage], str]] = {
    "kind": lambda item: item.kind,
    "path": lambda item: item.path or item.kind,
    "perms": lambda item: item.perms,
}
"""What VMAs may have in common; anonymous memory has no path, and goes by its kind."""


@record
class VmaGroup:
    """VMAs that have something in common."""

    name: str
    """What it is."""
    kind: str
    """Their kind, or those that they have, joined by commas."""
    vmas: list[VmaUsage]
    size: int
    """Bytes of addresses."""
    usage: Usage
    """What they use together."""
    nodes: Sizes
    """Bytes by NUMA node, when they were asked for."""


def grouped(vmas: Iterable[VmaUsage], by: str, nodes: Sequence[int] = ()) -> list[VmaGroup]:
    """Return VMAs by their ``kind``, ``path`` or ``perms``, in the order in which each comes first."""
    name_of = NAME_BY[by]
    groups: dict[str, list[VmaUsage]] = {}
    for item in vmas:
        groups.setdefault(name_of(item), []).append(item)
    return [
        VmaGroup(
            name=name,
            kind=",".join(dict.fromkeys(item.kind for item in members)),
            vmas=members,
            size=sum(item.size for item in members),
            usage=total(item.usage for item in members),
            nodes=total_by_node((item.nodes or {} for item in members), nodes),
        )
        for name, members in groups.items()
    ]
