"""What a front end without rights and its broker say to each other: `mematlas.kernel.brokered` and its `broker`."""

from __future__ import annotations

import _socket  # socket itself costs 9 ms
import errno
import os
import sys

from mematlas.frozen import record

QUESTION_SIZE = 1 << 16
MESSAGE_SIZE = 1 << 16
"""Bytes of one message of an answer, besides what it begins with; longer ones are several."""
FD_SIZE = 4
"""Bytes of an int, which a descriptor is."""
ANSWER, RECORD, ARRAYS, PIECE, MORE, FAILURE, REFUSAL, MISTAKE = b"=", b"*", b"#", b"-", b"+", b"e", b"o", b"!"
"""What a message begins with: an answer, one that is a record, one with arrays in a file of memory, one of several; a
part of what follows; an error of ours, or of the system; a traceback."""
ROOM = MESSAGE_SIZE + 64
"""Bytes of a message with what it begins with, and what says where arrays are."""
TAKEN_BACK = b"<"
"""What a question may begin with, with a digit: nobody looks at the area of that number any more."""
CONNECT, INTRODUCE = b"c", b"u"
"""What is asked where connections are: for one; and what is told there: that it comes from who the front end is now."""


@record
class Grant:
    """What a front end may ask about: what its command was given at the start, and no more."""

    front: int
    """The PID of the front end, whose user is its own and its children's, and nobody else's."""
    processes: frozenset[tuple[int, int]] | None = None
    """The PID and start of each process that may be looked at; None for all."""
    acts: frozenset[tuple[int, int]] = frozenset()
    """The PID and start of each process that may be acted on."""
    advice: frozenset[int] = frozenset()
    """What advice may be given to them: MADV_*."""
    paths: frozenset[str] = frozenset()
    """Files and directories that may be looked at."""
    has_kernel: bool = False
    """Whether the kernel's own half of page tables may be looked at."""


def send_whole(connection: _socket.socket, kind: bytes, data: bytes) -> None:
    """Send what may be longer than a message."""
    last = len(data) - len(data) % MESSAGE_SIZE if data else 0
    for first in range(0, last, MESSAGE_SIZE):
        connection.sendmsg([MORE, data[first : first + MESSAGE_SIZE]])
    connection.sendmsg([kind, data[last:]])


def receive(connection: _socket.socket) -> tuple[bytes, int]:
    """Return a message and the descriptor that came with it, or -1."""
    data, rights, _, _ = connection.recvmsg(ROOM, _socket.CMSG_SPACE(FD_SIZE), _socket.MSG_CMSG_CLOEXEC)
    return data, int.from_bytes(rights[0][2], sys.byteorder) if rights else -1


def receive_whole(connection: _socket.socket) -> tuple[bytes, bytes, int]:
    """Return what kind of message comes next, all of it, and the descriptor that came with it, or -1.

    Raises:
        ConnectionResetError: nobody sends any more.
    """
    parts = []
    kind = MORE
    while kind == MORE:
        data, fd = receive(connection)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "who answers has ended")
        kind = data[:1]
        parts.append(data[1:])
    return kind, b"".join(parts), fd


def carrying(fd: int) -> list[tuple[int, int, bytes]]:
    """Return what has a descriptor sent along with a message: unix(7)."""
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(FD_SIZE, sys.byteorder))]


def encode(name: str, *parts: object) -> bytes:
    """Return a question as it is sent.

    >>> encode("open_file", 4211, 77, "maps", 0)
    b'open_file\\x004211\\x0077\\x00maps\\x000'
    """
    return b"\0".join((name.encode("ascii"), *map(encode_part, parts)))


def encode_part(part: object) -> bytes:
    """Return a number, a text, bytes or None as they are sent."""
    if part is None or isinstance(part, bytes):
        return part or b""
    return os.fsencode(str(int(part) if isinstance(part, bool) else part))
