"""What writes a recording, where nobody feeds it any more."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from mematlas.errors import FormatError
from mematlas.timeline import writing
from mematlas.timeline.stream import MAGIC, frame_of


@pytest.mark.parametrize("fed", [b"", MAGIC[:5], MAGIC + frame_of({"recording": []})])
@pytest.mark.parametrize("is_heard", [True, False])
def test_a_recorder_that_is_killed_before_a_moment_leaves_no_file(fed: bytes, is_heard: bool, tmp_path: Path) -> None:
    (read, feed), (heard, said) = os.pipe(), os.pipe()
    os.write(feed, fed)
    os.close(feed)
    if not is_heard:
        os.close(heard)
    try:
        with contextlib.suppress(FormatError, BrokenPipeError):
            writing.write(str(tmp_path / "x.mematlas"), False, None, read, said)
    finally:
        for fd in (said, *((heard,) if is_heard else (read,))):
            os.close(fd)
    assert list(tmp_path.iterdir()) == []
