"""Recordings that a stranger may have made: real ones, changed, and command lines that read them.

An input is a list of changes to a recording or a stream, a command line, and who runs that.
"""

from __future__ import annotations

import json
import os
import re
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from xml.etree import ElementTree

from commands import CODES, CONTROL, NEVER, WORDS, Line, Ran, check, clear, options, run_line
from everything import import_everything
from forked import MOST_WRITTEN, USER, Forked, being_user
from made_recordings import NAME, Base, all_bases
from mematlas.cli.output import FORMS, PICTURES
from mematlas.cli.report import KINDS, OF
from mutated_captures import SECRET, Change, discard
from recording_changes import change, changes, is_plain

OWNER, STRANGER, ROOT, SUDO = "owner", "stranger", "root", "sudo"
"""Who reads a recording: whose it is; somebody who may read and not change it; root; root for its owner."""
READERS = (*(OWNER,) * 5, *(STRANGER,) * 3, ROOT, SUDO)
LIVE = frozenset(("-d", "--duration", "-i", "--interval", "-n", "--count", "-o", "--output"))
"""Options that wait, or are said where a file is wanted."""
LINES = (
    *("usage AT", "usage AT --json", "usage AT --distinct", "usage AT --if-ended", "usage AT --verify"),
    *("usage AT --each", "usage AT --numa", "usage AT --folios --bytes", "maps AT", "maps AT --gaps", "maps AT --numa"),
    *("maps AT --by owner", "maps AT --by path", "maps AT --by kind --json", "maps AT --format csv"),
    *("maps AT --sort rss --limit 3 --wide", "map AT", "map AT --reserved --width 60", "map AT --unfolded"),
    *("map AT -o OUT.svg", "map AT -o OUT.json", "pages AT --runs", "pages AT --limit 500", "hist AT"),
    *(
        "pages AT --present --limit 50 --json",
        "hist AT --json",
        "ps AT",
        "ps AT --by name",
        "ps AT --distinct",
        "ps AT --json",
    ),
    *("tables AT", "tables AT --json", "share AT", "share AT --sets", "ram AT", "ram AT --json"),
    *("ram AT --by kind --format csv", "cache AT", "cache AT --by directory --sort dirty", "cache AT --by fs --json"),
    *("diff AT AT", "diff AT AT", "diff AT AT --by kind", "diff AT AT --no-pages --json"),
    *("diff AT AT --by path --format csv", "translate AT 0x1000000 [heap]", "capture AT OUT", "cold AT --dry-run"),
    *("check AT --assert rss>0 --assert uss<1TiB", "check AT --assert swap==0 --format github"),
    *("pageout AT --dry-run", "convert RECORDING OUT.mematlas"),
)
TRIED = ("usage", "maps", "map", "ps", "tables", "ram", "cache", "hist", "pages", "share")
"""Commands that are given options at random, as they are declared."""
MOMENTS = ("9e9s", "-1s", "1h", "x", "99999999999s", "0", "1e999s", "0.0000001s", "1000000000us")
DRAWN = 0.05
"""How many of the reports that are files may be curves that matplotlib draws, which takes a second."""


class MutatedRecordings:
    """Recordings, changed, and command lines that read them."""

    name = "recordings"
    seconds = 20.0
    allowed: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        self._bases = all_bases()
        self._place = Path()
        import_everything()

    def make(self, random: Random) -> bytes:
        names = list(self._bases)
        name = random.choices(names, [1 if self._bases[name].is_stream else 2 for name in names])[0]
        base = self._bases[name]
        words = stream_line(random) if base.is_stream else recording_line(random, base)
        words = [word.replace("\0", "") for word in words]
        # A stream may come by a pipe: that is waited for.
        made = [each for each in changes(random, base) if each[0] != "pipe" or words[0] != "convert"]
        what = {
            "base": name,
            "changes": made,
            "line": Line(words).as_json(),
            "reader": random.choice(READERS),
        }
        return json.dumps(what).encode()

    def run(self, data: bytes) -> None:
        what = json.loads(data)
        if not self._place.name:
            self._prepare()
        reader = what["reader"]
        self._make(self._bases[what["base"]], what["changes"], reader)
        words = [re.sub("RECORDING|OUT", self._place_of, word) for word in Line.of_json(what["line"]).words]
        before = picture(self._place / "in")
        ran = self._run(words, reader)
        if reader != OWNER and os.geteuid() == 0:
            assert picture(self._place / "in") == before, f"what was read was changed\n{words}"
        made = sorted((self._place / "out").iterdir())
        assert len(made) < 2, f"more is left than was asked for\n{made}"
        if made and words[0] == "convert":
            self._run(["report", str(made[0])], reader)
        elif made:
            assert not ran.code, f"half of a file is left\n{words}"
            check_file(made[0])

    def _prepare(self) -> None:
        """Have a place for recordings, one for what is written, and one for what is to be gone at the end."""
        self._forked = Forked(self.seconds)
        self._place = Path(tempfile.mkdtemp(prefix="mematlas-fuzz-recordings-"))
        self._place.chmod(0o711)
        for name in ("in", "out", "tmp"):
            (self._place / name).mkdir()
            (self._place / name).chmod(0o755 if name == "in" else 0o1777)
        (self._place / "secret").touch(0o600)
        (self._place / "secret").write_text(f"root:{SECRET}:0:0\n")

    def _place_of(self, found: re.Match[str]) -> str:
        return str(self._place / {"RECORDING": f"in/{NAME}", "OUT": "out/new"}[found[0]])

    def _make(self, base: Base, made: list[Change], reader: str) -> None:
        """Have a recording there that is the reader's, or somebody's."""
        place = self._place / "in"
        for path in place.iterdir():
            discard(path)
        for name in ("out", "tmp"):
            clear(self._place / name)
        for suffix, data in base.files.items():
            (place / f"{NAME}{suffix}").write_bytes(data)
            (place / f"{NAME}{suffix}").chmod(0o644)
        for verb, suffix, *rest in made:
            change(place, verb, suffix, [str(self._place / "secret") if word == "SECRET" else word for word in rest])
        if os.geteuid() == 0:
            uid = 0 if reader == STRANGER else USER
            for path in (place, *place.iterdir()):
                os.lchown(path, uid, uid)

    def _run(self, words: list[str], reader: str) -> Ran:
        """Run a command line, and hold what it comes to against what is promised."""
        caller = {"SUDO_UID": str(USER), "SUDO_GID": str(USER)} if reader == SUDO else {}
        # A stream on standard input is that file.
        stdin = self._place / "in" / NAME
        line = Line(words, content_of(stdin) if "-" in words else b"", caller)
        tempfile.tempdir, before = str(self._place / "tmp"), tempfile.tempdir
        try:
            if reader in (OWNER, STRANGER):
                with being_user(), bounded(self.seconds):
                    ran = run_line(line)
            else:
                ran = self._forked.run(line)
        finally:
            tempfile.tempdir = before
        check(line, ran, CODES)
        assert SECRET.encode() not in ran.out + os.fsencode(ran.err), "what only root may read was shown"
        left = sorted(path.name for path in (self._place / "tmp").iterdir())
        assert not left, f"something temporary is left\n{left}: {words}"
        return ran


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Hold what is written into one file, and what children take of processors, against bounds."""
    size, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_WRITTEN, most))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert taken < seconds, f"children take more than {seconds:g} s of the processor\n{taken:.1f} s"


def picture(directory: Path) -> list[tuple[str, int, int, bytes]]:
    """Return what there is in a directory, and in its files, but for very large ones."""
    found = []
    for path in sorted(directory.iterdir()):
        status = path.lstat()
        found.append((path.name, status.st_mode, status.st_size, content_of(path)))
    return found


def content_of(path: Path) -> bytes:
    """Return what is in a file, if it is one, not very large, and may be read."""
    return path.read_bytes() if is_plain(path) and os.access(path, os.R_OK) else b""


def check_file(path: Path) -> None:
    """Hold a file that was made against what is promised of output."""
    data = path.read_bytes()
    assert SECRET.encode() not in data, "what only root may read was written"
    if path.suffix == ".png":
        return
    text = data.decode("utf-8", "surrogateescape")
    assert not CONTROL.search(text.replace("\r\n", "\n")), "control characters in a file"
    if path.suffix == ".svg":
        ElementTree.fromstring(text)


# --- making command lines


def recording_line(random: Random, base: Base) -> list[str]:
    """Return a command line about a recording."""
    pick = random.random()
    if pick < 0.5:
        return report_line(random)
    words = random.choice(LINES).split()
    if pick < 0.56:
        name = random.choice(TRIED)
        words = [name, *options(random, name, NEVER | LIVE), "AT"]
    return [moment(random, base) if word == "AT" else word for word in words]


def moment(random: Random, base: Base) -> str:
    """Return what names a moment of a recording."""
    if random.random() < 0.7:
        elapsed, pid = random.choice(base.looks)
        at = f"{elapsed:.6f}s"
    else:
        at = random.choice(("0s", "end", "end", f"{random.uniform(0, base.seconds):.1f}s", random.choice(MOMENTS)))
        pid = random.choice((random.choice(base.looks)[1], 1, 0))
    return f"RECORDING@{at}" + f":{pid}" * (random.random() < 0.7)


def report_line(random: Random) -> list[str]:
    """Return a command line that reports all of a recording."""
    kind = random.choice(list(KINDS)) if random.random() < 0.95 else random.choice(WORDS)
    words = ["report", "RECORDING", kind]
    if random.random() < 0.1:
        words += options(random, "report", NEVER | LIVE | {"--force"})
    if kind == "heatmap" and random.random() < 0.6:
        words += ["--of", random.choice(OF)]
    if random.random() < 0.3:
        forms = [form for form, what in FORMS.items() if what not in PICTURES or kind == "heatmap"]
        form = random.choice(list(FORMS) if random.random() < DRAWN else forms)
        return [*words, "-o", f"OUT{form}", *(["--force"] if random.random() < 0.2 else [])]
    return [*words, *random.choice(([], [], ["--json"], ["--format", "csv"], ["--wide"], ["--limit", "2"]))]


def stream_line(random: Random) -> list[str]:
    """Return a command line about a stream."""
    if random.random() < 0.1:
        return report_line(random)
    source = "-" if random.random() < 0.3 else "RECORDING"
    words = ["convert", source, "OUT.mematlas"]
    if random.random() < 0.1:
        words.append("--force")
    return words
