"""A recording that is made for one report, and is nowhere afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile

from mematlas.errors import Error
from mematlas.kernel.rights import invoking_user
from mematlas.timeline.recording_files import RecordingFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Namespace
    from mematlas.cli.session import Session

LOOKS = 60
"""How many there are, at the least, unless somebody says otherwise, and unless looks cost too much."""
LEAST, MOST = 0.1, 1.0
"""Seconds between two of them."""


def record_now(text: str, args: Namespace, session: Session) -> RecordingFiles:
    """Record a target for as long as was asked for; return the recording, open, which has no name any more.

    Raises:
        TargetNotFound, PermissionDenied: as of `mematlas record`.
    """
    from mematlas.cli.session import allow_many_files
    from mematlas.cli.signals import Interrupts
    from mematlas.timeline.recorder import facts_of, record_into
    from mematlas.timeline.watch import Watch
    from mematlas.timeline.writing import RecordingWriter
    from mematlas.views.record import Line

    result = None
    interval = args.every or min(max(args.duration / LOOKS, LEAST), MOST)
    allow_many_files()
    with Watch([text], session.procfs) as watch:
        try:
            directory = tempfile.mkdtemp(prefix="mematlas-")
        except OSError as error:
            raise Error(f"a temporary directory for the recording: {error.strerror} (TMPDIR)") from None
        try:
            if os.geteuid() == 0 and (user := invoking_user()):
                os.chown(directory, *user)  # who writes it is that one
            path = f"{directory}/recording"
            with (
                Interrupts(session.err, between_steps=True) as ending,
                Line(session.err) as told,
                RecordingWriter(path, facts_of(watch, interval)) as writer,
            ):
                result = record_into(writer, watch, interval, args.duration, rest=ending.rest, told=told)
            if result is None:
                raise KeyboardInterrupt  # somebody could not wait for the look that was going on
            files = RecordingFiles(path)
            files.connect_now()
            files.path = text
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    session.write_notes(result.notes)
    return files
