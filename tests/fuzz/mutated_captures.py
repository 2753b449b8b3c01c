"""Captures that a stranger may have made: real ones, with files changed or replaced by something else.

An input is a list of changes to a recorded capture, and a command line that reads it.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import itertools
import json
import os
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from commands import CODES, LOOKS, WITH_TARGET, Line, check, look_line, run_line
from mutation import BINARY, BORDERS, TEXT, mutate

RECORDED = Path(__file__).with_name("corpus") / "captures"
SECRET = "c8e7-what-only-root-may-read"
"""Stands in a file beside the capture: nothing that is written may hold it."""
HEADER = struct.Struct("<8sIIQQQ")
CHUNK = 1 << 16
PIECE = zlib.compress(bytes(CHUNK))

Change = list[Any]
"""A verb, the file that it is about, and what else it takes: made by `changes`, done by the function of its name."""


# --- what is done to a capture


def write(path: Path, content: str) -> None:
    """Have other content."""
    discard(path)
    path.write_bytes(base64.b64decode(content))


def drop(path: Path) -> None:
    """Be missing."""
    discard(path)


def link(path: Path, to: str) -> None:
    """Be a link."""
    discard(path)
    path.symlink_to(to)


def hard(path: Path, to: str) -> None:
    """Be another name of a file beside it."""
    discard(path)
    if (path.parent / to).is_file():
        os.link(path.parent / to, path, follow_symlinks=False)


def pipe(path: Path) -> None:
    """Be a pipe that nobody writes to."""
    discard(path)
    os.mkfifo(path)


def folder(path: Path) -> None:
    """Be a directory."""
    discard(path)
    path.mkdir()


def device(path: Path, number: int) -> None:
    """Be a device without an end: zero, or full."""
    discard(path)
    if os.geteuid() == 0:
        os.mknod(path, 0o020600, os.makedev(1, number))
    else:
        path.symlink_to("/dev/zero")


def sparse(path: Path, size: int) -> None:
    """Be of a size without taking room."""
    discard(path)
    with open(path, "wb") as file:
        file.truncate(size)


def bomb(path: Path, size: int) -> None:
    """Be a packed file of few bytes that holds very many."""
    discard(path)
    path.write_bytes(packed(struct.pack("<QQ", 0, size), [PIECE] * -(-size // CHUNK)))


def mode(path: Path, bits: int) -> None:
    """Have other rights."""
    path.chmod(bits)


def twin(path: Path, name: str) -> None:
    """Have a second one beside it."""
    (path.parent / name).mkdir()
    for file in path.iterdir():
        if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 24:
            shutil.copyfile(file, path.parent / name / file.name)


def rename(path: Path, name: str) -> None:
    """Be called something else."""
    path.rename(path.parent / name)


VERBS: dict[str, Callable[..., None]] = {
    verb.__name__: verb for verb in (write, drop, link, hard, pipe, folder, device, sparse, bomb, mode, twin, rename)
}


def change(capture: Path, verb: str, name: str, rest: list[Any]) -> None:
    """Do one change, unless an earlier one took away what it is about, or made it a link that leads elsewhere."""
    path = capture / name
    if path.parent.is_symlink() or (path.is_symlink() and verb in FOLLOWING):
        return
    with contextlib.suppress(OSError):
        VERBS[verb](path, *rest)


def discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for directory in (path, *(each for each in path.glob("*") if each.is_dir() and not each.is_symlink())):
            directory.chmod(0o700)  # we may not be root
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


FOLLOWING = frozenset(("mode", "twin"))
"""Verbs that would follow a link."""


def packed(table: bytes, chunks: list[bytes]) -> bytes:
    """Return a packed file with these extents and chunks; see `mematlas.kernel.packed`."""
    body = b"".join(chunks)
    head = HEADER.pack(b"mematlas", 2, 8, len(table) // 16, len(chunks), HEADER.size + len(body))
    return head + body + table + b"".join(struct.pack("<I", len(chunk)) for chunk in chunks)


def unpacked(data: bytes) -> tuple[bytes, bytes]:
    """Return the extents of a packed file, and all bytes of them."""
    _, _, _, nr_extents, nr_chunks, place = HEADER.unpack_from(data)
    sizes = struct.unpack_from(f"<{nr_chunks}I", data, place + 16 * nr_extents)
    ends = list(itertools.accumulate(sizes, initial=HEADER.size))
    words = b"".join(zlib.decompress(data[low:high]) for low, high in itertools.pairwise(ends))
    return data[place : place + 16 * nr_extents], words


def chunks_of(words: bytes) -> list[bytes]:
    """Return bytes in chunks, as a packed file has them."""
    return [zlib.compress(words[place : place + CHUNK], 1) for place in range(0, len(words), CHUNK)]


# --- making changes


def other_bytes(random: Random, file: Path) -> bytes:
    """Return the content of a file, changed."""
    data = file.read_bytes()
    if file.name == "machine.json" and random.random() < 0.7:
        return json.dumps(other_value(random, json.loads(data), 0)).encode()
    if file.suffix not in (".packed", ".gz"):
        return mutate(random, [data], TEXT)
    if random.random() < 0.4:
        return mutate(random, [data], BINARY)
    # What is inside must stay readable, or nothing of it is ever looked at.
    if file.suffix == ".gz":
        return gzip.compress(mutate(random, [gzip.decompress(data)], TEXT), 1)
    table, words = unpacked(data)
    if random.random() < 0.5:
        table = mutate(random, [table], BINARY[-6:])
    else:
        words = mutate(random, [words], BINARY[-6:])
    return packed(table[: len(table) // 16 * 16], chunks_of(words))


VALUES: list[Any] = [
    *BORDERS,
    *(None, True, False, -1, 1.5, 1e308, float("nan"), "", "x", "\x1b[2J\u202e", "\ud800", [], {}, [[]], {"a": {}}),
    *("9" * 5000, [0] * 1000, 10**400, [[0, 2**64, 0]], [["a", "b", "c"]], {"shmem": [1]}, {"with_memory": [-1]}),
]


def other_value(random: Random, value: Any, depth: int) -> Any:
    """Return a value of JSON with one thing in it changed."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(sorted(value))
        changed = dict(value)
        if random.random() < 0.2:
            del changed[key]
        elif random.random() < 0.1:
            changed[random.choice(("x", "paths", "devices", "nodes", "\x1b"))] = random.choice(VALUES)
        else:
            changed[key] = other_value(random, value[key], depth + 1)
        return changed
    if isinstance(value, list) and value and random.random() < 0.7:
        place = random.randrange(len(value))
        return [*value[:place], other_value(random, value[place], depth + 1), *value[place + 1 :]]
    return random.choice(VALUES)


def changes(random: Random, base: Path) -> list[Change]:
    """Return some changes to a capture."""
    files = sorted(path for path in base.rglob("*") if path.is_file())
    (own,) = (path for path in base.iterdir() if path.is_dir())
    made: list[Change] = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        file = random.choice(files)
        name = str(file.relative_to(base))
        if random.random() < 0.75:
            made.append(["write", name, base64.b64encode(other_bytes(random, file)).decode()])
            continue
        place = random.choice((name, name, own.name))
        made.append(
            random.choice(
                [
                    ["drop", place],
                    ["link", place, random.choice(("/dev/zero", "SECRET", "/proc/self/mem", "nosuch", ".", name, "/"))],
                    ["hard", name, random.choice(files).name],
                    ["pipe", place],
                    ["folder", name],
                    ["device", name, random.choice((5, 7))],
                    ["sparse", name, random.choice((1 << 20, 4 << 30, 1 << 40))],
                    ["bomb", random.choice([str(each.relative_to(base)) for each in files if each.suffix == ".packed"]),
                     random.choice((64 << 20, 1025 << 20, 3 << 30))],
                    ["mode", place, random.choice((0, 0o777, 0o4755))],
                    ["twin", own.name, random.choice(("1", "0", "007", "9" * 30, "²", "٣"))],
                    ["rename", own.name, random.choice(("1", "0", "07", "9" * 30, "²", "x"))],
                ]
            )
        )  # fmt: skip
    return made


class MutatedCaptures:
    """Recorded captures, changed, and command lines that read them."""

    name = "captures"
    seconds = 20.0
    allowed: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        self._place = Path()

    def make(self, random: Random) -> bytes:
        base = random.choice(sorted(RECORDED.iterdir()))
        target = random.choice(("CAPTURE", "CAPTURE", "CAPTURE", "CAPTURE/PID"))
        names = WITH_TARGET if random.random() < 0.2 else LOOKS
        words = [word.replace("\0", "") for word in look_line(random, names, [target])]
        if words[0] == "capture":
            words.append("COPY")
        if words[0] == "pages":
            # A row for each page of a VMA that may be said to have terabytes: as many as are asked for.
            words[1:1] = ["--limit", "1000"]
        what = {"base": base.name, "changes": changes(random, base), "line": Line(words).as_json()}
        return json.dumps(what).encode()

    def run(self, data: bytes) -> None:
        what = json.loads(data)
        if not self._place.name:
            self._place = Path(tempfile.mkdtemp(prefix="mematlas-fuzz-captures-"))
        secret = self._place / "secret"
        secret.write_text(f"root:{SECRET}:0:0\n")
        capture = self._place / "capture"
        discard(capture)
        discard(self._place / "copy")
        shutil.copytree(RECORDED / what["base"], capture)
        (pid,) = (path.name for path in capture.iterdir() if path.is_dir())
        for verb, name, *rest in what["changes"]:
            rest = [str(secret) if word == "SECRET" else word for word in rest]
            change(capture, verb, name, rest)
        places = {"CAPTURE": str(capture), "PID": pid, "COPY": str(self._place / "copy")}
        line = Line.of_json(what["line"])
        words = [re.sub("CAPTURE|PID|COPY", lambda found: places[found[0]], word) for word in line.words]
        ran = run_line(Line(words))
        check(Line(words), ran, CODES)
        assert SECRET.encode() not in ran.out + os.fsencode(ran.err), "what only root may read was shown"
        assert not (self._place / "copy").exists(), "something is left of what was refused"
