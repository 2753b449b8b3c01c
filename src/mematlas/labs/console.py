"""How a workload talks with whoever steers it: lines in, one report per step out, as text or as JSON lines."""

from __future__ import annotations

import io
import sys

from mematlas.labs.memory import PAGE_SIZE, KnownMemory
from mematlas.labs.own import shown_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO


class EndOfInput(Exception):
    """Nobody is there to go on for."""


class Console:
    """The two ends of the conversation: lines in, one report per step out."""

    def __init__(self, reader: TextIO, writer: TextIO, as_json: bool = False) -> None:
        self.reader = reader
        self.writer = writer
        self.as_json = as_json
        if isinstance(reader, io.TextIOWrapper):
            # Bytes that are not text are bad input, to be answered like any other.
            reader.reconfigure(errors="replace")

    def ask(self, prompt: str) -> str:
        """Wait for a line and return it. People are prompted; pipes know."""
        if self.reader.isatty():
            print(prompt, end=" ", file=sys.stderr, flush=True)
        line = self.reader.readline()
        if not line:
            raise EndOfInput
        return line.strip()

    def report(self, event: str, text: str, memory: KnownMemory | None = None, **more: Any) -> None:
        """Say what is true now, at once."""
        if self.as_json:
            import json

            truth: dict[str, Any] = {"event": event, "pid": shown_pid(), "page_size": PAGE_SIZE}
            if memory:
                truth |= describe(memory)
            text = json.dumps(truth | more)
        if text:
            print(text, file=self.writer, flush=True)

    def refuse(self, message: str) -> None:
        """Answer a line that was not understood."""
        self.report("error", message, message=message)


def describe(memory: KnownMemory) -> dict[str, Any]:
    """Return the truth about memory, as JSON keys."""
    return {
        "address": hex(memory.address),
        "size": memory.size,
        "nr_pages": memory.nr_pages,
        "nr_touched": len(memory.touched),
        "touched": sorted(memory.touched),
    }
