"""Columns: what a value of each kind looks like, and how the values of a column are got and formatted.

What is written is formatted a column at a time, many rows together: a value that stands throughout, or comes again, is
formatted once, and what is left for each row are loops in C.
"""

from __future__ import annotations

from _operator import attrgetter  # operator is Python code beside it, which takes 0.3 ms

from mematlas.frozen import record
from mematlas.views.format import (
    format_address,
    format_amounts,
    format_change,
    format_counts,
    format_hex,
    format_id,
    format_list,
    format_path,
    format_rate,
    format_seconds,
    format_share,
    format_size,
    format_sizes,
    widest,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, Generic

    from typing_extensions import TypeVar

    from mematlas.model.nodes import Sizes

    Item = TypeVar("Item", contravariant=True, default=Any)
    AnItem = TypeVar("AnItem")

    Row = tuple[Any, ...]
    Batch = Sequence[Sequence[Any]]
    """Rows that came together: their columns, each as long as there are rows."""
    Texts = list[Sequence[str]]
    """The same, formatted."""
    Form = tuple[str, Callable[[Any], str], Callable[[int], str]]
    """How a column is written: its kind, what writes any value of it, and what writes an integer, faster."""
else:
    Item, Generic = None, {None: object}  # importing typing takes longer than a light command


class Hidden:
    """The value of a cell that exists and may not be read: ``hidden`` in text, null in JSON."""


HIDDEN = Hidden()


@record
class Column(Generic[Item]):
    """One column: its JSON key, its heading, what its values are, and how they are got of an item."""

    key: str
    heading: str
    kind: str = "text"
    """``text``, ``path``, ``id`` (a long one is shown short), ``size`` (bytes), ``count``, ``address``, ``hex``,
    ``entry`` (64 bits), ``list`` (a tuple of names), ``json`` (any value that JSON has: text is its own), ``counts``
    (by name), ``amounts`` (bytes by name), ``sizes`` (bytes by a size), ``flag``, ``share`` (0 to 1), ``number``,
    ``change`` (bytes, with a sign), ``rate`` (bytes a second) or ``seconds``."""
    value: Callable[[Item], Any] | None = None
    """What gets the value of an item; None for the item's attribute of the name of the key."""
    total: Callable[[Any], Any] | None = None
    """`sum` adds up the values; any other function is given the items; None leaves the total blank."""
    rank: int = 0
    """Which columns text gives up on a screen that is too narrow: that of the highest rank first, and never those of
    rank 0. Before them go those that say nothing, as a column of zeros."""
    shown: bool = True
    """Whether text shows it; JSON and CSV always do."""
    width: int = 0
    """Least width, for tables that stream and cannot look ahead; of paths, what they are shortened to at the least."""
    fallback: str = ""
    """The key of a column whose cells stand in blank ones of this while text does not show that column."""

    @property
    def right(self) -> bool:
        """Whether text is aligned to the right."""
        return self.kind in ("size", "count", "share", "number", "change", "rate", "seconds")

    def get(self, item: Item) -> Any:
        """Return the value of an item; of one that holds many rows, all their values."""
        return self.value(item) if self.value else getattr(item, self.key)

    def values(self, items: Sequence[Any]) -> list[Any]:
        """Return the values of items."""
        return list(map(self.value or attrgetter(self.key), items))

    def values_beside(self, items: Sequence[Any]) -> list[Any]:
        """Return the values of items among which some rows stand `Aside`."""
        return list(map(self._value_beside, items))

    def _value_beside(self, item: Any) -> Any:
        return item.values.get(self.key) if type(item) is Aside else self.get(item)

    def total_of(self, items: Sequence[Any]) -> Any:
        """Return the total; None where there is none, and where a value that belongs to it is not known."""
        if self.total is not sum:
            return self.total and self.total(items)
        try:
            return sum(self.values(items))
        except TypeError:  # None is among them, or HIDDEN
            return None

    def in_order(self, items: Iterable[Any]) -> list[Any]:
        """Return items by their values: of amounts the largest first, else the lowest; those not known last."""
        pairs = [(self._value_beside(item), item) for item in items]
        known = [pair for pair in pairs if is_known(pair[0])]
        known.sort(key=lambda pair: pair[0], reverse=self.right)
        unknown = [item for value, item in pairs if not is_known(value)]
        return [item for _, item in known] + unknown


def is_known(value: object) -> bool:
    """Whether a cell has a value that may be shown."""
    return value is not None and value is not HIDDEN


class Aside:
    """A row that is no item, such as a gap between two: it has its values by key, and is in no total."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values


FORMATS: dict[str, Callable[[Any], str]] = {
    "text": lambda value: format_path(str(value)),
    "path": format_path,
    "id": format_id,
    "size": format_size,
    "count": str,
    "address": format_address,
    "hex": format_hex,
    "entry": lambda value: f"{value:#018x}",
    "list": format_list,
    "json": str,
    "counts": format_counts,
    "amounts": format_amounts,
    "sizes": format_sizes,
    "flag": lambda value: "yes" if value else "no",
    "share": format_share,
    "change": format_change,
    "rate": format_rate,
    "seconds": lambda value: format_seconds(value) if value else "0 s",
    "number": lambda value: f"{value:.3f}" if isinstance(value, float) else str(value),
}


def node_columns(nodes: Iterable[Sizes], sizes_of: Callable[[AnItem], Sizes | None]) -> list[Column[AnItem]]:
    """Return the columns of bytes by NUMA node; text shows that of no known node only if it is needed.

    >>> [column.key for column in node_columns([{0: 4096, 2: 0}], lambda item: item.nodes)]
    ['n0', 'n2', 'n_unknown']
    """
    used: set[int | None] = set()
    for sizes in nodes:
        used.update(node for node, size in sizes.items() if size or node is not None)

    def amount_on(node: int | None) -> Callable[[AnItem], int | None]:
        return lambda item: None if (sizes := sizes_of(item)) is None else sizes.get(node, 0)

    return [
        *(
            Column(f"n{node}", f"N{node}", "size", amount_on(node), total=sum, rank=3)
            for node in sorted(node for node in used if node is not None)
        ),
        Column("n_unknown", "N?", "size", amount_on(None), total=sum, rank=3, shown=None in used),
    ]


NR_TOGETHER = 1024
"""Rows formatted together at the most, so that their texts take little memory."""
RECURRING = ("text", "path", "id", "list", "size", "share")
"""Kinds of which there are few different values."""


def batch_of(rows: Sequence[Row]) -> Batch:
    """Return rows, one at least, as their columns."""
    return tuple(zip(*rows, strict=True))


def pieces_of(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches in pieces of `NR_TOGETHER` rows at most, none of them empty."""
    for batch in batches:
        for low in range(0, len(batch[0]), NR_TOGETHER):
            yield [values[low : low + NR_TOGETHER] for values in batch]


def texts_of(piece: Batch, forms: Sequence[Form]) -> Texts:
    """Return the cells of columns."""
    return [cells_of(values, *form) for values, form in zip(piece, forms, strict=True)]


def cells_of(
    values: Sequence[Any], kind: str, of_any: Callable[[Any], str], of_int: Callable[[int], str]
) -> Sequence[str]:
    """Return the cells of a column, whose values are one at least.

    >>> cells_of([8, 9], "hex", repr, hex), cells_of([8, None], "hex", repr, hex)
    (['0x8', '0x9'], ['8', 'None'])
    """
    first = values[0]
    if kind != "number" and values.count(first) == len(values):  # numbers: 2 equals 2.0, and is written otherwise
        return [of_any(first)] * len(values)
    form = of_int if set(map(type, values)) == {int} else of_any
    if kind in RECURRING:
        known = {value: form(value) for value in set(values)}
        return [known[value] for value in values]
    return list(map(form, values))


IN_BYTES = {"size": "count", "amounts": "counts", "change": "count", "rate": "number"}
"""How a kind is written where sizes are to be integers."""


def text_form(column: Column[Any], in_bytes: bool) -> Form:
    """Return how text writes a column."""
    form = FORMATS[IN_BYTES.get(column.kind, column.kind) if in_bytes else column.kind]

    def form_any(value: Any) -> str:
        if value is None:
            return "-"
        return "hidden" if value is HIDDEN else form(value)

    return column.kind, form_any, form


def widths_of(columns: Sequence[Column[Any]], known: Sequence[Texts]) -> list[int]:
    """Return how wide columns are, as far as their cells are known."""
    return [
        max(len(column.heading), column.width, *(widest(texts[index]) for texts in known))
        for index, column in enumerate(columns)
    ]
