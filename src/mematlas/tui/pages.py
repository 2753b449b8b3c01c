"""The pages, in the order of the keys that lead to them."""

from __future__ import annotations

from mematlas.tui.map import MapPage
from mematlas.tui.processes import ProcessesPage
from mematlas.tui.ram import RamPage
from mematlas.tui.tables import TablesPage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.tui.page import Page
    from mematlas.tui.viewing import Viewing


def all_pages(viewing: Viewing) -> list[Page]:
    """Return the pages."""
    return [ProcessesPage(viewing), MapPage(viewing), TablesPage(viewing), RamPage(viewing)]
