"""What is done with our own open files."""

from __future__ import annotations

import os
import time

from helpers import alone
from mematlas.kernel.descriptors import write_within
from victim import DEADLINE


@alone
def test_a_pipe_that_fills_meanwhile_is_let_go() -> None:
    reader, writer = os.pipe()
    before = time.monotonic()
    write_within(1, writer, bytes(1 << 20))  # there is room for some of it
    write_within(1, writer, b"no room")
    assert time.monotonic() - before < DEADLINE
    assert len(os.read(reader, 1 << 20)) == 1 << 16
    write_within(1, writer, b"room")
    assert os.read(reader, 10) == b"room"
