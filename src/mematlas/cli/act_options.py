"""What acts can be asked for, as it was typed."""

from __future__ import annotations

from mematlas.actions.options import MAX_PASSES
from mematlas.analysis.movable import Choice
from mematlas.errors import BadInput
from mematlas.frozen import fields_of, record
from mematlas.model.address_space import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Namespace


@record
class Amount:
    """So much memory, in pages or in bytes."""

    number: int
    is_bytes: bool

    def nr_pages(self, page_size: int) -> int:
        """Return it in pages; a part of one counts."""
        return -(-self.number // page_size) if self.is_bytes else self.number


def parse_amount(text: str) -> Amount:
    """Return a number of pages, or with a unit a size.

    >>> parse_amount("512"), parse_amount("2M").nr_pages(1 << 12)
    (Amount(number=512, is_bytes=False), 512)
    """
    number = parse_size(text)
    if not number:
        raise BadInput(f"bad amount {text!r}: a number of pages such as 500, or a size such as 64M")
    return Amount(number, text[-1:].isalpha() and not text.lower().startswith("0x"))


@record
class ActOptions:
    """What was asked for. What a command does not take has its default."""

    anon: bool
    file: bool
    state: frozenset[str] | None
    dry_run: bool
    force: bool
    yes: bool
    limit: int | None
    coldest: Amount | None = None
    passes: int = MAX_PASSES
    no_touch: bool = False
    free: bool = False
    watch_refaults: float | None = None
    undo: bool = False
    temporary_swap: int | None = None

    @property
    def choice(self) -> Choice:
        """The pages that are meant."""
        if self.anon and self.file:
            raise BadInput("--anon and --file exclude each other")
        return Choice(self.state, self.anon, self.file)


def options_of(args: Namespace) -> ActOptions:
    """Return the options of one of the commands."""
    given = vars(args)
    return ActOptions(**{name: given[name] for name in fields_of(ActOptions) if name in given})
