"""How much may be kept of page tables that are looked at again and again, by all who keep some."""

from __future__ import annotations

from mematlas.errors import NotSupported


class TableRoom:
    """Room for regions of `mematlas.model.pagetables.kept.KeptTables`, each a GiB of addresses with pages of 4 KiB.

    >>> room = TableRoom(3)
    >>> room.take("one", 2)
    >>> room.take("one", 3)
    >>> room.take("other", 1)
    Traceback (most recent call last):
    mematlas.errors.NotSupported: a copy of the page tables of 1 region: not supported here (needs room for 4, of 3)
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken: dict[int, int] = {}

    def take(self, owner: object, nr_regions: int) -> None:
        """Take room for so many in place of what the owner has.

        Raises:
            NotSupported: there is not so much.
        """
        nr_all = sum(self._taken.values()) - self._taken.get(id(owner), 0) + nr_regions
        if nr_all > self.most:
            regions = "1 region" if nr_regions == 1 else f"{nr_regions:,} regions"
            raise NotSupported(f"a copy of the page tables of {regions}", f"room for {nr_all:,}, of {self.most:,}")
        self._taken[id(owner)] = nr_regions

    def give_back(self, owner: object) -> None:
        """Let go of what the owner has."""
        self._taken.pop(id(owner), None)
