"""The file of a recording, which may be anybody's, and what is beside it: opened once, by descriptor; what SQLite has
not put into it yet is put there, or into a copy. What a database may do is bounded before anything of it is read.

What is being written is copied, and the copy is of one time: of ours SQLite makes it, in one transaction. Else it is
what stands in both files, unless the log began anew meanwhile: until then all that was moved from it into the file is
in it still, and is put there once more.

Sources: sqlite.org/security.html, sqlite.org/wal.html, sqlite.org/walformat.html, sqlite.org/backup.html.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from contextlib import closing, suppress

from mematlas.errors import Error, FormatError, PermissionDenied, TargetNotFound
from mematlas.timeline.encoding import PART
from mematlas.timeline.schema import APPLICATION_ID
from mematlas.timeline.stream import MAGIC
from mematlas.timeline.writing import LOG, finish

MOST_VALUE = PART + (1 << 16)
"""Bytes of one value, and of a row."""
MOST_TEXT = 1 << 14
"""Characters of a name that are shown, and bytes of an SQL statement of ours."""
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
HEADER = b"SQLite format 3\0"
HEADER_SIZE, ID_AT, ID = 100, 68, APPLICATION_ID.to_bytes(4, "big")
"""Bytes of that of a database, and what stands in it where, of a recording (sqlite.org/fileformat.html)."""
LOG_HEADER = 32
"""Bytes of that of a log, in which each beginning anew has other salts."""
FRAME_HEADER, FIRST_PAGE = 24, b"\0\0\0\1"
"""Bytes of that of a page in it, and how it begins where that is the first page of the database."""
MOST_BYTES = 1 << 40
PIECE = 1 << 20
"""Bytes that are copied together."""
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MOST_VALUE,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: MOST_TEXT,
    sqlite3.SQLITE_LIMIT_COLUMN: 64,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 32,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 4,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
}
TRIES = 10
"""Times that a recording is copied which changes meanwhile."""
PAGES = 1 << 10
"""That SQLite copies together: between two lots a signal is heard."""
SAFE = ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "temp_store = MEMORY")


class RecordingFiles:
    """The files of a recording, held open: two of one whose writer was killed, or still writes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.database: sqlite3.Connection | None = None
        """A connection that was made while we had the right to open the file again."""
        self._held: set[int] = set()
        """What that holds open."""
        self.log = -1
        """What SQLite has written and not put into the file yet; -1 where there is nothing."""
        self.fd = open_regular_file(path)
        try:
            # An empty one too: whoever writes has just emptied it, and fills it again.
            if has_bytes(path) and os.path.lexists(path + LOG):
                with suppress(TargetNotFound):  # the writer has just finished
                    self.log = open_regular_file(path + LOG)
        except BaseException:
            self.close()
            raise
        directory = os.path.dirname(path) or "."
        self.are_ours = os.geteuid() == os.fstat(self.fd).st_uid and os.access(directory, os.W_OK)
        """Whether we may put one into the other."""

    @property
    def are_of_a_recording(self) -> bool:
        """Whether they say that they are of a recording: in the file, or in the first page of the log."""
        heads = [os.pread(self.fd, HEADER_SIZE, 0)]
        if self.log >= 0:
            frame = os.pread(self.log, FRAME_HEADER + HEADER_SIZE, LOG_HEADER)
            heads.append(frame[FRAME_HEADER:] if frame[:4] == FIRST_PAGE else b"")
        return any(head[: len(HEADER)] == HEADER and head[ID_AT : ID_AT + 4] == ID for head in heads)

    @property
    def fds(self) -> set[int]:
        """Their descriptors."""
        return {fd for fd in (self.fd, self.log) if fd >= 0} | self._held

    def connect_now(self) -> None:
        """Connect to the file, before rights are left that opening it again takes; nothing of it is parsed.

        Not where a copy has to be made all the same.
        """
        if self.log < 0:
            before = open_fds()
            self.database = connect(self.fd, self.path)
            self._held = open_fds() - before

    def reopen(self, path: str) -> None:
        """Hold another file in their place."""
        self.close()
        self.fd = open_regular_file(path)

    def close(self) -> None:
        """Let go of them."""
        if self.database:
            self.database.close()
            self.database = None
        self._held = set()
        for fd in self.fds:
            os.close(fd)
        self.fd = self.log = -1


def copy_of_now(files: RecordingFiles, path: str, is_private: bool) -> None:
    """Copy a recording that is being written, or is not ours to change, as it is at one time.

    With ``is_private`` by what is open alone.

    Raises:
        Error: it changes faster than it can be copied.
    """
    if is_private or not files.are_ours or not copy_by_sqlite(files, path):
        copy_both(files, path)
        if files.log >= 0:
            settle(path, files.path)


def copy_by_sqlite(files: RecordingFiles, path: str) -> bool:
    """Copy a recording of ours in one transaction; return whether that was done: not while somebody mends it."""
    try:
        with closing(open_database(files.path)) as database, closing(open_database(path)) as copied:
            bound(database)
            database.execute("BEGIN")
            nr_pages, size = (database.execute(f"PRAGMA page_{what}").fetchone()[0] for what in ("count", "size"))
            # From here on it is of one time. What its log says of how large it is may be anything.
            if nr_pages * size > sum(os.fstat(fd).st_size for fd in files.fds):
                return False
            copied.execute("PRAGMA synchronous = OFF").fetchall()
            database.backup(copied, pages=PAGES)
    except sqlite3.Error:
        return False
    return True


def copy_both(files: RecordingFiles, path: str) -> None:
    """Copy a recording, and what is beside it, as they are at one time.

    Raises:
        Error: they change faster than that.
    """
    for _ in range(TRIES):
        for name in (path, path + LOG):
            with suppress(FileNotFoundError):
                os.unlink(name)
        began, changed = log_header(files.log), changed_at(files.fd)
        copy(files.fd, path)
        if files.log >= 0:
            copy(files.log, path + LOG)
        if (began and log_header(files.log) == began) or changed_at(files.fd) == changed:
            return
    raise Error(f"{files.path} changes faster than it can be copied: try again, as its owner if you can")


def log_header(fd: int) -> bytes:
    """Return what says which log it is; nothing where there is none."""
    return os.pread(fd, LOG_HEADER, 0) if fd >= 0 else b""


def changed_at(fd: int) -> tuple[int, int]:
    """Return how large a file is, and when it was written to."""
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns


def settle(path: str, name: str) -> bool:
    """Put what SQLite has written beside a file into it; return whether that was done: not while it is being written.

    Raises:
        FormatError: that cannot be done.
    """
    try:
        with closing(open_database(path)) as database:
            bound(database)
            return finish(database)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # of names in it that are no text SQLite says so in no text
        raise FormatError(name, expected=f"a recording ({error})") from None


def open_database(path: str) -> sqlite3.Connection:
    """Return a connection that waits for nobody."""
    return sqlite3.connect(os.path.abspath(path), isolation_level=None, timeout=0)


def open_regular_file(path: str) -> int:
    """Open a file that may be anybody's; return its descriptor. No link is followed.

    Raises:
        TargetNotFound: there is none.
        FormatError: it is something else.
    """
    try:
        fd = os.open(path, OPEN)
    except FileNotFoundError:
        raise TargetNotFound(f"no recording {path}") from None
    except PermissionError:
        raise PermissionDenied(path, text="leave to read it: from its owner, by chmod") from None
    except OSError as error:
        why = "a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
        raise Error(f"{path}: {why}") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
        os.close(fd)
        raise FormatError(path, expected="a regular file")
    return fd


def open_fds() -> set[int]:
    """Return the descriptors that we have, without that which they are listed by."""
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def has_bytes(path: str) -> bool:
    """Whether there is a file with something in it."""
    try:
        return os.lstat(path).st_size > 0
    except OSError:
        return False


def copy(fd: int, path: str) -> None:
    """Copy an open file to a new one, holes as holes: a file of few bytes may say that it is very large."""
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(made, os.fstat(fd).st_size)
        at = 0
        while (place := next_bytes(fd, at)) and (data := os.pread(fd, place[1], place[0])):
            at = place[0]
            while data:
                written = os.pwrite(made, data, at)
                at += written
                data = data[written:]
    except OSError as error:
        raise Error(f"a copy of the recording: {error.strerror}") from None
    finally:
        os.close(made)


def next_bytes(fd: int, at: int) -> tuple[int, int] | None:
    """Return where bytes of a file are that are in no hole, from a place on, and how many of them to copy together."""
    try:
        start = os.lseek(fd, at, os.SEEK_DATA)
        return start, min(PIECE, os.lseek(fd, start, os.SEEK_HOLE) - start)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None  # there are no more
        raise


def connect(fd: int, path: str) -> sqlite3.Connection:
    """Return a connection to a file that is open, and that nobody changes.

    Raises:
        FormatError: it is no database.
    """
    if os.pread(fd, len(HEADER), 0) != HEADER:
        is_stream = os.pread(fd, len(MAGIC), 0) == MAGIC
        hint = "; this is a stream: mematlas convert makes one of it" if is_stream else ""
        raise FormatError(path, expected=f"a recording of mematlas{hint}")
    before = open_fds()
    try:
        database = sqlite3.connect(f"file:/proc/self/fd/{fd}?mode=ro&immutable=1", uri=True, isolation_level=None)
        bound(database)
        database.execute("PRAGMA query_only = ON").fetchall()
        # SQLite goes by the name that the link leads to: somebody may have put another file there.
        if not all(os.path.samestat(os.fstat(held), os.fstat(fd)) for held in open_fds() - before):
            database.close()
            raise FormatError(path, expected="one file all the time: it was replaced just now")
    except sqlite3.Error as error:
        raise FormatError(path, expected=f"a recording ({error})") from None
    return database


def bound(database: sqlite3.Connection) -> None:
    """Bound what a database may do, before anything of it is read."""
    for name, most in LIMITS.items():
        database.setlimit(name, most)
    for pragma in SAFE:
        database.execute(f"PRAGMA {pragma}").fetchall()
