"""Addresses are hexadecimal, with or without 0x; "-" reads them from standard input. The physical address is that of
the byte itself, not of its page; it needs CAP_SYS_ADMIN, without which frames are hidden.
"""

from __future__ import annotations

import sys

from mematlas.cli.command import TARGET, Command
from mematlas.cli.options import add_output, add_repeat, add_target
from mematlas.errors import BadInput
from mematlas.model.address_space import HEX_DIGITS, parse_address
from mematlas.notes import Notes
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
    addresses = list(map(address_of, words))

    def make() -> Table:
        notes = Notes()
        found = session.process.translate(addresses, notes)
        return translate_table(found, session.target_info(session.process.reading), notes)

    session.show(make, args)
    return 0


def address_of(word: str) -> int:
    """Return the address that a word is."""
    address = parse_address(word)
    if address is None and HEX_DIGITS.issuperset(digits := word.lower().removeprefix("0x")) and len(digits) > 16:
        raise BadInput(f"{word} is beyond the address space: an address has at most 64 bits")
    if address is None:
        raise BadInput(f"bad address {word!r}: hexadecimal, such as 0x7f3c1a2b4010")
    return address


COMMAND = Command(
    "[options] TARGET ADDRESS... | -",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas translate 1234 0x7f2860000123", "one address"),
        ("mematlas translate 1234 - < addresses", "as many as a file has"),
    ),
    words=(TARGET,),
)
