"""Opening a recording, which may be anybody's."""

from __future__ import annotations

from mematlas.kernel.confine import leave_rights
from mematlas.kernel.rights import has_rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.session import Session
    from mematlas.timeline.recording import Recording
    from mematlas.timeline.recording_files import RecordingFiles


def open_recording(files: RecordingFiles, kept: set[int], session: Session) -> Recording:
    """Open a recording, with no rights at all and little else open but ``kept``: it may be anybody's."""
    from mematlas.timeline.recording import Recording

    is_private = has_rights()
    if is_private:
        session.procfs.close()
        if not files.database:
            files.connect_now()
        leave_rights(files.fds | kept)
    recording = Recording(files, is_private=is_private)
    session.recorded = recording.machine
    return recording
