"""VMAs that have something in common, with what they are together."""

from __future__ import annotations

from mematlas.analysis.usage import total, total_by_node
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from mematlas.analysis.owners import Owner
    from mematlas.analysis.results import VmaUsage
    from mematlas.analysis.usage import Usage
    from mematlas.model.nodes import Sizes

NAME_BY: dict[str, Callable[[VmaUsage], Hashable]] = {
    "kind": lambda item: item.kind,
    "path": lambda item: item.path or item.kind,
    "perms": lambda item: item.perms,
    "owner": lambda item: item.owner and (item.owner.what, item.owner.names),
}
"""What VMAs may have in common; anonymous memory has no path, and goes by its kind. Owners are to be asked for."""


@record
class VmaGroup:
    """VMAs that have something in common."""

    name: Hashable
    """What it is: a text; of an owner what it is, with its names."""
    kind: str
    """Their kind, or those that they have, joined by commas."""
    vmas: list[VmaUsage]
    size: int
    """Bytes of addresses."""
    usage: Usage
    """What they use together."""
    nodes: Sizes
    """Bytes by NUMA node, when they were asked for."""

    @property
    def owner(self) -> Owner:
        """Who made them, where they are by owner: with all that it is known by, and all its threads."""
        from mematlas.analysis.owners import together

        return together(item.owner for item in self.vmas if item.owner)


def grouped(vmas: Iterable[VmaUsage], by: str, nodes: Sequence[int] = ()) -> list[VmaGroup]:
    """Return VMAs by their ``kind``, ``path``, ``perms`` or ``owner``, in the order in which each comes first."""
    name_of = NAME_BY[by]
    groups: dict[Hashable, list[VmaUsage]] = {}
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
