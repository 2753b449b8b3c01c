"""The four pieces of advice that the kernel takes about another process, one module for each MADV_*.

What they have in common is in `base`. What is known of the kernel is in mm/madvise.c, mm/vmscan.c, mm/khugepaged.c.
"""

from __future__ import annotations

from mematlas.actions.advice.cold import Cold
from mematlas.actions.advice.collapse import Collapse
from mematlas.actions.advice.pageout import PageOut
from mematlas.actions.advice.willneed import WillNeed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.actions.advice.base import Advice
    from mematlas.kernel.madvise import AdviceName

ALL: tuple[type[Advice], ...] = (PageOut, Cold, WillNeed, Collapse)
ADVICE: dict[AdviceName, type[Advice]] = {advice.name: advice for advice in ALL}
"""By name."""
