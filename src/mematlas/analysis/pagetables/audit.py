"""How safe page tables are: what is both writable and executable, what users may see of the kernel, and what memory is
mapped more than once with different rights.
"""

from __future__ import annotations

from mematlas.analysis.pagetables.leaves import chosen_leaves, leaf_runs, leaves_of
from mematlas.arrays import Words, np
from mematlas.frozen import record, replace
from mematlas.model.pagetables.entries import holds, leaf_address
from mematlas.model.pagetables.walk import EXECUTABLE, USER, WRITABLE, Span, Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@record
class Finding:
    """Something dangerous, or odd, in page tables."""

    kind: str
    """`writable-executable`, `user-in-kernel`, `executable-data`, `writable-alias`, `alias`."""
    start: int
    size: int
    rights: int
    phys: int | None = None
    other: int | None = None
    """For an alias, the other address of the same memory."""
    other_rights: int | None = None
    area: str = ""
    """The VMA's path, or the region of the kernel half, that it begins in."""

    @property
    def is_harmless(self) -> bool:
        """Whether it is no more than the same memory to be read in two ways, written in neither.

        In the kernel half that it can be written at one address means nothing: so can all memory of the direct map.
        """
        writable = (self.rights | (self.other_rights or 0)) & WRITABLE
        return self.kind == "alias" and (not writable or self.start >= 1 << 63)


def audit(walked: Walk, data_areas: Sequence[Span] = ()) -> list[Finding]:
    """Return what is dangerous: memory both writable and executable, kernel pages open to user space, executable data.

    ``data_areas`` are the first and last addresses of what should never be executable: heap and stacks.

    >>> audit(walk(memory, mode, mm.pgd, mode.kernel_start, 1 << 64))  # doctest: +SKIP
    []
    """
    both = WRITABLE | EXECUTABLE
    findings = []
    for level, description in enumerate(walked.mode.levels):
        if not description.can_map:
            continue
        leaves = leaves_of(walked, level)
        in_kernel = leaves.addresses >= np.uint64(walked.mode.kernel_start)
        in_data = np.zeros(len(leaves), np.bool_)
        lasts = leaves.addresses + np.uint64(leaves.size - 1)
        for first, last in data_areas:
            in_data |= (leaves.addresses <= last) & (lasts >= first)
        kinds = (
            ("writable-executable", leaves.rights & both == both),
            ("user-in-kernel", in_kernel & (leaves.rights & USER != 0)),
            ("executable-data", in_data & (leaves.rights & EXECUTABLE != 0)),
        )
        for kind, chosen in kinds:
            for run in leaf_runs(walked.mode, chosen_leaves(leaves, chosen)):
                finding = Finding(kind=kind, start=run.start, size=run.size, rights=run.rights, phys=run.phys)
                findings.append(finding)
    return sorted(findings, key=lambda finding: finding.start)


def aliases(*parts: Walk) -> list[Finding]:
    """Return memory that a walk, given as its parts, maps more than once with different rights; see `Covers`.

    >>> aliases(walked)[:1]  # doctest: +SKIP
    [Finding(kind='alias', start=140063, size=4096, rights=2, phys=7151616, other=140064)]
    """
    covers = Covers()
    for part in parts:
        covers.add(part)
    return covers.aliases()


class Covers:
    """The memory that leaves map, by the rights that they give: rows of (phys, end, address), in order of phys.

    The parts of a walk are added one by one, so that only these rows are held of all. What the processor does not
    follow gives no rights to anybody and is left out, as is what has no owner (devices, the zero page).
    """

    def __init__(self) -> None:
        self._by_rights: dict[int, list[Words]] = {}

    def add(self, part: Walk) -> None:
        """Add what the leaves of a part map."""
        mode = part.mode
        for level, description in enumerate(mode.levels):
            if not description.can_map:
                continue
            leaves = leaves_of(part, level)
            left_out = np.asarray(holds(leaves.entries, mode.special), np.bool_)
            left_out |= ~np.asarray(holds(leaves.entries, mode.present), np.bool_)
            leaves = chosen_leaves(leaves, ~left_out)
            phys = np.asarray(leaf_address(mode, level, leaves.entries))
            rows = np.stack([phys, phys + np.uint64(leaves.size), leaves.addresses], axis=1)
            for rights in np.unique(leaves.rights).tolist():
                alike = _in_order(rows[leaves.rights == rights])
                self._by_rights.setdefault(rights, []).append(alike)

    def aliases(self) -> list[Finding]:
        """Return what is mapped more than once with different rights.

        A `writable-alias` is writable at one address and executable at the other; an `alias` differs otherwise.
        """
        by_rights = sorted(self._by_rights.items())
        covers = [(rights, _in_order(np.concatenate(rows))) for rights, rows in by_rights]
        findings = []
        for index, (rights, mine) in enumerate(covers):
            for other_rights, others in covers[index + 1 :]:
                dangerous = _writes_code(rights, other_rights) or _writes_code(other_rights, rights)
                kind = "writable-alias" if dangerous else "alias"
                for phys, end, address, other in _overlaps(mine, others):
                    finding = Finding(
                        kind=kind,
                        start=address,
                        size=end - phys,
                        rights=rights,
                        phys=phys,
                        other=other,
                        other_rights=other_rights,
                    )
                    findings.append(finding)
        return findings


def _writes_code(rights: int, other_rights: int) -> bool:
    return bool(rights & WRITABLE and other_rights & EXECUTABLE)


def _in_order(rows: Words) -> Words:
    return _merged(rows[np.argsort(rows[:, 0], kind="stable")])


def _merged(rows: Words) -> Words:
    # Leaves that continue each other, in memory and in addresses alike, become one; what repeats is left out.
    phys, ends, addresses = rows.T
    follows = (phys[1:] == ends[:-1]) & (np.diff(addresses) == np.diff(phys))
    repeats = ends[1:] <= np.maximum.accumulate(ends)[:-1]
    first = np.ones(min(1, len(rows)), np.bool_)
    starts = np.flatnonzero(np.concatenate([first, ~(follows | repeats)]))
    merged = rows[starts].copy()
    if len(starts):
        merged[:, 1] = np.maximum.reduceat(ends, starts)
    return merged


def _overlaps(mine: Words, others: Words) -> Iterator[tuple[int, int, int, int]]:
    # Rows of each are in order and do not overlap among themselves.
    low = np.searchsorted(others[:, 1], mine[:, 0], side="right")
    high = np.searchsorted(others[:, 0], mine[:, 1], side="left")
    for row in np.flatnonzero(high > low).tolist():
        start, end, address = mine[row].tolist()
        for other_start, other_end, other_address in others[low[row] : high[row]].tolist():
            first, last = max(start, other_start), min(end, other_end)
            yield first, last, address + first - start, other_address + first - other_start


def join_neighbours(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by address; those that follow one another, at both addresses of an alias, as one.

    Where in memory their pages are makes no difference: the physical address is that of the first.
    """
    joined: list[Finding] = []
    ends_at: dict[tuple[object, ...], int] = {}
    for finding in sorted(findings, key=lambda finding: finding.start):
        alike = (finding.kind, finding.rights, finding.other_rights)
        index = ends_at.pop((*alike, finding.start, finding.other), None)
        if index is None:
            index = len(joined)
            joined.append(finding)
        else:
            joined[index] = replace(joined[index], size=joined[index].size + finding.size)
        whole = joined[index]
        end = None if whole.other is None else whole.other + whole.size
        ends_at[*alike, whole.start + whole.size, end] = index
    return joined
