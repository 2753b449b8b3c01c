"""Columns of pages: entries in the form of pagemap, state bytes and use, put as blocks or as ranges that lie apart."""

from __future__ import annotations

from mematlas.arrays import Bytes, NDArray, Words, np
from mematlas.kernel.pagemap import Block
from mematlas.kernel.scattered import Scattered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def block_of(address: int, raw: Words, held: Bytes, use: Bytes) -> Block:
    """Return the arrays of consecutive pages as a block."""
    return Block(address, raw.data.cast("B"), held.tobytes(), use=use.tobytes())


def scattered(column: NDArray[Any], indexes: NDArray[np.intp], length: int) -> NDArray[Any]:
    """Return an array of zeros with a column's values at some indexes."""
    result = np.zeros(length, column.dtype)
    result[indexes] = column
    return result


def ranges_of(addresses: Words, raw: Words, held: Bytes, use: Bytes, page_size: int) -> Iterator[Scattered]:
    """Yield pages at ascending addresses as ranges of those that follow on; nothing where no page is anything."""
    if not held.all():
        shown = held != 0
        addresses, raw, held, use = addresses[shown], raw[shown], held[shown], use[shown]
    if len(held):
        begins = np.flatnonzero(np.diff(addresses, prepend=addresses[:1]) != page_size)
        lengths = np.diff(begins, append=len(held))
        yield Scattered(
            starts=addresses[begins].tolist(),
            lengths=lengths.tolist(),
            raw=raw.data.cast("B"),
            states=held.tobytes(),
            use=use.tobytes(),
        )
