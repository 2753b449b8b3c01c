"""The pages, in the order of the keys that lead to them."""

from __future__ import annotations

from mematlas.tui.over_time import TimePage
from mematlas.tui.processes import ProcessesPage
from mematlas.tui.vmas import VmasPage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.tui.page import Page
    from mematlas.tui.viewing import Viewing


def all_pages(viewing: Viewing) -> list[Page]:
    """Return the pages."""
    return [ProcessesPage(viewing), VmasPage(viewing), TimePage(viewing)]
