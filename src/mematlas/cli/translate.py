"""Addresses are hexadecimal, with or without 0x; "-" reads them from standard input. The physical address is that of
the byte itself, not of its page; it needs CAP_SYS_ADMIN, without which frames are hidden.
"""

from __future__ import annotations

import sys

from mematlas.cli.addresses import addresses_of
from mematlas.cli.command import TARGET, Command
from mematlas.cli.options import add_output, add_repeat, add_target
from mematlas.errors import BadInput
from mematlas.kernel.maps import KINDS
from mematlas.model.address_space import parse_address
from mematlas.views.translate import translate_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    words = session.words
    if "-" in words or (not words and not sys.stdin.isatty()):
        words = [word for word in words if word != "-"] + sys.stdin.read().split()
    if not words:
        raise BadInput("which address? Give one or more, or - to read them from standard input")
    for word in words:
        refuse_areas(word, session.text)
    addresses = addresses_of(words)

    def make() -> Table:
        result = session.process.translate(addresses)
        return translate_table(result, session.target_info(result.reading))

    session.show(make, args)
    return 0


def refuse_areas(word: str, target: str) -> None:
    """Refuse what `pages` takes and we do not, and say so."""
    first, plus, _ = word.partition("+")
    start, minus, end = word.partition("-")
    has_length = plus and parse_address(first)
    has_end = minus and parse_address(start) and parse_address(end)
    if has_length or has_end or word.strip("[]") in KINDS:
        raise BadInput(f"{word!r} is more than one address; for all its pages: mematlas pages {target} {word}")


COMMAND = Command(
    "[options] TARGET ADDRESS... | -",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas translate 1234 0x7f2860000123", "one address"),
        ("mematlas translate 1234 - < addresses", "all addresses in a file"),
    ),
    words=(TARGET,),
)
