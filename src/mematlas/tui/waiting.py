"""Why there is nothing to see of a process, and what to do."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.timeline.watch import Seen
    from mematlas.tui.viewing import Viewing

NOBODY = "no process is chosen: 1 leads to the list of all, and Enter there to one of them"


def why_no_process(viewing: Viewing) -> str:
    """Return why a process is not to be seen at the moment that is looked at."""
    if viewing.focus is None:
        return NOBODY
    pid = viewing.focus[0]
    if viewing.closely is None:
        return f"looking at process {pid} closely ..."
    return (
        f"process {pid} is not there at {viewing.clock:.1f} s: it has ended, or was not there yet, or may not be looked"
        f" at.\n\n[ and {{ lead to earlier moments, ] and }} to later ones, 1 to the other processes."
    )


def why_no_vmas(viewing: Viewing, seen: Seen | None) -> str:
    """Return why the VMAs of a process are not to be seen; ``seen`` is what is known of it."""
    if seen is None:
        return why_no_process(viewing)
    if not viewing.is_live:
        return "VMAs are not recorded (record --what vmas)"
    if viewing.closely is None:
        return (
            f"looking at process {seen.pid} closely ...\n\nThat takes the rights to look at it: its user's, or root's."
        )
    return why_no_process(viewing)
