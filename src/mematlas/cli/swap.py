"""Swap space of our own for the time of a command: --temporary-swap SIZE."""

from __future__ import annotations

from mematlas.cli.options import parse_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mematlas.cli.arguments import Arguments


def add_temporary_swap(arguments: Arguments, text: str) -> None:
    """Declare it."""
    arguments.add_more("--temporary-swap", type=parse_bytes, metavar="SIZE", help=text)


def temporary_swap(size: int | None) -> AbstractContextManager[object]:
    """Return swap space of our own for a while, or nothing when none was asked for."""
    if size is None:
        from contextlib import nullcontext

        return nullcontext()
    from mematlas.kernel.swapfile import TemporarySwap

    return TemporarySwap(size)
