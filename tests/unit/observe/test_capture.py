"""A capture says what the process said, to every command; names do not leak from it, and none stays half-made."""

from __future__ import annotations

import contextlib
import gzip
import json
import mmap
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import NOBODY, Outcome
from helpers import PAGE, sparse, texts
from mematlas import Process, ProcFS
from mematlas.cli import main
from mematlas.errors import BadInput, Error, PermissionDenied
from mematlas.kernel.hugepage import read_huge_size
from mematlas.kernel.memory.x86 import is_x86_64
from mematlas.kernel.nodes import read_nodes
from mematlas.kernel.packed import PackedFile
from mematlas.model.pages import PageReader
from mematlas.observe.captures import GAP, Frames, Redactor, capture, runs
from mematlas.observe.sources import PAGE_SOURCES
from victim import DEADLINE, PATH_KINDS, PLAIN_KINDS, Victim, wait_until

pytestmark = pytest.mark.machine

Start = Callable[..., Victim]
Result = dict[str, Any]
Row = dict[str, Any]

FIXTURES = {"ksm": "ksm", "hugetlb": "hugetlb_pages", "swapped": "swap"}
SCENES = (
    PLAIN_KINDS,
    PATH_KINDS,
    ("guard", "locked"),
    ("thp",),
    ("huge_zero",),
    ("ksm",),
    ("hugetlb",),
    ("swapped", "shared_anon_swapped"),
    ("anon_named",),
)
COMMANDS = (
    ("usage", "--source", "smaps"),
    ("usage", "--source", "pagemap"),
    ("maps", "--source", "smaps"),
    ("maps", "--source", "pagemap"),
    ("translate",),
    ("pages",),
    ("pages", "--runs"),
    ("hist",),
    ("map",),
)
FLEETING = {"referenced", "active", "idle", "lru", "dirty", "writeback", "locked"}
"""Frame flags that the kernel changes on its own."""


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Return a function that runs a command and returns its JSON."""

    def run(*words: object) -> Result:
        assert main([*map(str, words), "--json"]) == 0
        return parse(capsys.readouterr().out)

    return run


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Return a directory that nobody may write to as well; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="mematlas-") as name:
        os.chmod(name, 0o777)
        if any(not os.stat(parent).st_mode & stat.S_IXOTH for parent in Path(name).parents):
            pytest.skip(f"needs a directory for temporary files that every user may enter, not {name}")
        yield Path(name)


def parse(text: str) -> Result:
    """Return a result without what changes by itself."""
    result: Result = json.loads(text)
    for row in result["rows"]:
        if row.get("frame_flags"):
            row["frame_flags"] = sorted(set(row["frame_flags"]) - FLEETING)
    return result


def addresses(victim: Victim) -> list[str]:
    """Return some addresses of a victim, within pages, and one that it does not map."""
    areas = victim.areas.values()
    return [hex(area.page_address(page) + 5) for area in areas for page in (0, 1, area.nr_pages - 1)] + ["0x5"]


def assert_same_rows(
    victim: Victim, directory: Path, look: Callable[..., Result], commands: Sequence[tuple[str, ...]] = COMMANDS
) -> None:
    """Compare each command on a capture with the same one on the process, which stands still.

    Pages of libraries are shared with programs that come and go meanwhile. So a difference counts only in what is the
    same before and after the capture, and must stay.
    """
    todo = [(*command, *(addresses(victim) if command == ("translate",) else ())) for command in commands]
    end = time.monotonic() + DEADLINE
    attempt = 0
    while todo:
        saved = directory / f"{victim.pid}-{attempt}"
        attempt += 1
        before = [look(name, victim.pid, *rest)["rows"] for name, *rest in todo]
        assert look("capture", victim.pid, saved)["rows"][0]["pid"] == victim.pid
        found = [look(name, saved, *rest)["rows"] for name, *rest in todo]
        after = [look(name, victim.pid, *rest)["rows"] for name, *rest in todo]
        differing = [place for place in range(len(todo)) if differ(before[place], found[place], after[place])]
        if differing and time.monotonic() > end:
            place = differing[0]
            assert found[place] == before[place] == after[place], todo[place]
        todo = [todo[place] for place in differing]


def differ(before: list[Row], found: list[Row], after: list[Row]) -> bool:
    """Whether rows differ in a value that is the same in two others, or are not as many."""
    if not len(before) == len(found) == len(after):
        return True
    return any(
        one.keys() != row.keys() or any(row[key] != one[key] == other.get(key) for key in row)
        for one, row, other in zip(before, found, after, strict=True)
    )


def test_only_what_stays_the_same_counts_as_a_difference() -> None:
    assert not differ([{"pss": 1}], [{"pss": 2}], [{"pss": 3}])
    assert differ([{"pss": 1}], [{"pss": 2}], [{"pss": 1}])
    assert differ([{"pss": 1}], [], [{"pss": 2}])


@contextlib.contextmanager
def mapped_by_us(pid: int) -> Iterator[None]:
    """Map each file of a process as well, every page of it.

    So nobody who comes or goes changes which of its pages of libraries are mapped by it alone.
    """
    paths = {line.split(None, 5)[5] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/" in line}
    with contextlib.ExitStack() as stack:
        for path in sorted(path for path in paths if os.path.isfile(path)):
            with open(path, "rb") as file:
                mapping = stack.enter_context(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
            for place in range(0, len(mapping), PAGE):
                mapping[place]
        yield


@pytest.mark.parametrize("kinds", SCENES, ids=["-".join(kinds[:2]) for kinds in SCENES])
def test_every_command_reads_a_capture_as_the_process(
    kinds: Sequence[str],
    victim: Start,
    look: Callable[..., Result],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    for kind in kinds:
        if fixture := FIXTURES.get(kind):
            request.getfixturevalue(fixture)
    it = victim(*kinds)
    with it.stopped():
        assert_same_rows(it, tmp_path, look)


def test_without_rights_a_capture_knows_as_little_as_its_maker(
    victim: Start, as_nobody: Callable[..., Outcome], open_directory: Path
) -> None:
    it = victim("anon", "zero", "shared_anon", "private_file", uid=NOBODY)
    # Without frames a capture cannot tell nodes, where a process is asked with move_pages(2): and runs end with them.
    several_nodes = len(read_nodes(ProcFS()).with_memory) > 1
    commands = [command for command in COMMANDS if not (several_nodes and "--runs" in command)]

    def look(*words: object) -> Result:
        outcome = as_nobody([*map(str, words), "--json"])
        assert (outcome.code, outcome.stderr) == (0, "")
        result = parse(outcome.stdout)
        for row in result["rows"]:
            # Each run is a process that maps pages of libraries for itself, as many as it happens to use.
            row.pop("pss", None)
            if several_nodes:
                row.pop("node", None)
        return result

    with it.stopped(), mapped_by_us(it.pid):
        assert_same_rows(it, open_directory, look, commands)
        saved = look("capture", it.pid, open_directory / "last")
    assert saved["rows"][0]["nr_frames"] is None
    assert any("CAP_SYS_ADMIN" in note for note in texts(saved["notes"]))
    assert any("map_files" in note for note in texts(saved["notes"]))


@pytest.mark.root("CAP_SYS_PTRACE")
def test_without_pagemap_the_rest_is_saved(
    victim: Start, as_nobody: Callable[..., Outcome], open_directory: Path
) -> None:
    it = victim("anon")
    outcome = as_nobody(["capture", str(it.pid), str(open_directory / "saved"), "--json"], caps=["CAP_SYS_PTRACE"])
    assert outcome.code == 0
    saved = parse(outcome.stdout)
    assert saved["rows"][0]["nr_pages"] is None
    assert any(note.startswith("not saved: ") and "pagemap" in note for note in texts(saved["notes"]))
    with Process(it.pid, ProcFS(str(open_directory / "saved"))) as process:
        assert process.usage().usage.rss == sum_of_rss(it.pid)
        assert process.usage().usage.zero is None


def sum_of_rss(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Rss:"))


def test_a_capture_verifies_itself(victim: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    it = victim("anon", "zero", "thp")
    with it.stopped():
        assert main(["capture", str(it.pid), str(tmp_path / "saved")]) == 0
    assert main(["usage", str(tmp_path / "saved"), "--verify"]) == 0
    assert "NO" not in capsys.readouterr().out.split()


def test_no_right_is_asked_for_what_no_capture_has(
    victim: Start, as_nobody: Callable[..., Outcome], open_directory: Path
) -> None:
    saved = str(open_directory / "saved")
    assert as_nobody(["capture", str(victim("anon", uid=NOBODY).pid), saved]).code == 0
    for source in PAGE_SOURCES:
        outcome = as_nobody(["pages", saved, "--accessed", "--source", source])
        assert (outcome.code, outcome.stderr) == (
            5,
            "mematlas: accessed pages: not supported here (needs a running process, not a capture)\n",
        )
    verified = as_nobody(["usage", saved, "--verify"])
    why = f"page tables of {saved}" if is_x86_64() else f"reading the page tables of {os.uname().machine}"
    assert f"page tables cannot be read: {why}: not supported here" in verified.stderr


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_capture_tells_whether_the_process_could_run(is_stopped: bool, victim: Start, tmp_path: Path) -> None:
    it = victim("anon")
    with it.stopped() if is_stopped else contextlib.nullcontext():
        assert main(["capture", str(it.pid), str(tmp_path / "saved")]) == 0
    path = tmp_path / "saved" / str(it.pid) / "smaps.gz"
    # A page more of each VMA, as if it had been counted wrongly.
    text = re.sub(
        rb"\nRss: +(\d+) kB", lambda rss: b"\nRss: %d kB" % (int(rss[1]) + 4), gzip.decompress(path.read_bytes())
    )
    path.write_bytes(gzip.compress(text))
    assert main(["usage", str(tmp_path / "saved"), "--verify"]) == (10 if is_stopped else 0)


# Who may read it


def modes(directory: Path) -> set[tuple[bool, int]]:
    """Return whether each thing in a directory, itself too, is a directory, with its mode."""
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [directory, *directory.rglob("*")]}


def test_files_are_their_owner_s_alone(victim: Start, look: Callable[..., Result], tmp_path: Path) -> None:
    it = victim("anon")
    (tmp_path / "empty").mkdir(mode=0o755)
    for directory, kept in ((tmp_path / "new", 0o700), (tmp_path / "empty", 0o755)):
        look("capture", it.pid, directory)
        assert stat.S_IMODE(directory.stat().st_mode) == kept
        directory.chmod(0o700)
        assert modes(directory) == {(True, 0o700), (False, 0o600)}


@pytest.mark.root("CAP_SYS_ADMIN")
def test_under_sudo_all_is_the_invoking_user_s(
    victim: Start, look: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    monkeypatch.setenv("SUDO_GID", "4711")
    saved = tmp_path / "saved"
    look("capture", victim("anon").pid, saved)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in [saved, *saved.rglob("*")]}
    assert owners == {(NOBODY, 4711)}


# What is refused, and what is left then


def refused(words: Sequence[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(list(map(str, words)))
    return code, capsys.readouterr().err


def test_a_directory_that_holds_something_is_left_alone(
    victim: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    code, message = refused(["capture", victim("anon").pid, tmp_path], capsys)
    assert code == 2
    assert "is not empty: a capture needs a new or an empty directory" in message
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(("place", "what"), [("file", "is not a directory"), ("no/where", "No such file or directory")])
def test_a_place_for_no_directory_is_bad_input(
    place: str, what: str, victim: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    code, message = refused(["capture", victim("anon").pid, tmp_path / place], capsys)
    assert (code, what in message) == (2, True)


def test_no_directory_at_all_is_bad_input(victim: Start, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(["capture", victim("anon").pid], capsys)
    assert (code, "which directory?" in message) == (2, True)


def test_a_capture_is_not_captured_again(victim: Start, look: Callable[..., Result], tmp_path: Path) -> None:
    it = victim("anon")
    look("capture", it.pid, tmp_path / "one")
    with (
        Process(it.pid, ProcFS(str(tmp_path / "one"))) as process,
        pytest.raises(BadInput, match="no process that runs"),
    ):
        capture(process, str(tmp_path / "two"))
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("was_there", [False, True])
def test_an_interrupted_capture_is_removed(
    was_there: bool, victim: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "saved"
    if was_there:
        saved.mkdir()

    def interrupt(*_: object) -> bytes:
        assert (saved / str(it.pid) / "pagemap.packed").exists()
        raise KeyboardInterrupt

    it = victim("anon")
    monkeypatch.setattr("mematlas.observe.captures.Recorder._facts", interrupt)
    assert main(["capture", str(it.pid), str(saved)]) == 130
    assert list(tmp_path.iterdir()) == [saved] * was_there
    assert not was_there or list(saved.iterdir()) == []


def test_a_full_disk_is_an_error_of_one_line(
    victim: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mematlas.observe.captures.Recorder._facts", fill)
    code, message = refused(["capture", victim("anon").pid, tmp_path / "saved"], capsys)
    assert (code, message) == (1, f"mematlas: {tmp_path / 'saved'}: No space left on device\n")
    assert list(tmp_path.iterdir()) == []


def test_another_user_s_process_is_refused_whole(
    victim: Start, as_nobody: Callable[..., Outcome], open_directory: Path
) -> None:
    it = victim("anon")
    outcome = as_nobody(["capture", str(it.pid), str(open_directory / "saved")])
    assert outcome.code == 4
    assert "sudo -- " in outcome.stderr
    assert list(open_directory.iterdir()) == []


@pytest.mark.root("CAP_SYS_ADMIN")
def test_a_failed_capture_leaves_the_directory_as_it_was(
    victim: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise Error("no")

    saved = tmp_path / "saved"
    saved.mkdir()
    os.chown(saved, NOBODY, 4711)
    saved.chmod(0o2750)
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    monkeypatch.setenv("SUDO_GID", "4711")
    monkeypatch.setattr("mematlas.observe.captures.Recorder._facts", fail)
    assert main(["capture", str(victim("anon").pid), str(saved)]) == 1
    after = saved.stat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (NOBODY, 4711, 0o2750)
    assert list(saved.iterdir()) == []


def test_a_refused_target_leaves_the_directory_alone(
    victim: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: Process) -> None:
        raise PermissionDenied(f"/proc/{process.pid}/maps")

    def take(*_: object) -> None:
        pytest.fail("taken")

    monkeypatch.setattr(Process, "address_space", refuse)
    monkeypatch.setattr("mematlas.observe.captures.NewDirectory", take)
    with Process(victim("anon").pid) as process, pytest.raises(PermissionDenied):
        capture(process, str(tmp_path))


def test_redacted_is_yes_or_no_in_text(victim: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    it = victim("anon")
    for name, more, word in (("a", [], "no"), ("b", ["--redact"], "yes")):
        assert main(["capture", str(it.pid), str(tmp_path / name), *more]) == 0
        assert capsys.readouterr().out.splitlines()[1].split()[-2:] == [word, str(tmp_path / name)]


# Redacted


def strings_of(pid: int) -> set[bytes]:
    """Return every name that a process's files tell."""
    proc = Path(f"/proc/{pid}")
    names = {(proc / "comm").read_bytes().rstrip(b"\n"), *(proc / "cmdline").read_bytes().split(b"\0")}
    for line in (proc / "maps").read_bytes().split(b"\n"):
        path = line.split(None, 5)[5:]
        if path and not path[0].startswith(b"["):
            names |= {path[0].removesuffix(b" (deleted)"), *path[0].removesuffix(b" (deleted)").split(b"/")[-2:]}
    names |= {line.split(b":", 2)[2] for line in (proc / "cgroup").read_bytes().split(b"\n") if line}
    names |= {line.split(b" ")[0] for line in Path("/proc/swaps").read_bytes().split(b"\n")[1:]}
    # What is too short stands in anything; the kernel's own names are kept, as is its release.
    kept = {b"/dev/zero", b"/anon_hugepage", b"[heap]", os.uname().release.encode()}
    return {name for name in names | {socket.gethostname().encode()} if len(name) > 4} - kept


@pytest.fixture
def redacted(victim: Start, look: Callable[..., Result], tmp_path: Path) -> tuple[Victim, Path]:
    """Return a process that stands still, and a capture of it without names."""
    it = victim(*PATH_KINDS, "anon", "tmpfs", "memfd", "shared_anon")
    look("capture", it.pid, tmp_path / "saved", "--redact")
    return it, tmp_path / "saved"


def test_no_name_is_left_in_a_redacted_capture(redacted: tuple[Victim, Path]) -> None:
    it, saved = redacted
    names = strings_of(it.pid)
    assert len(names) > 20
    for path in saved.rglob("*"):
        content = b"" if path.is_dir() else path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert [name for name in names if name in content or name in os.fsencode(path.name)] == [], path


def test_a_redacted_capture_names_no_user_and_no_host(redacted: tuple[Victim, Path]) -> None:
    it, saved = redacted
    own = saved / str(it.pid)
    status = (own / "status").read_text()
    assert not re.search(r"^(Uid|Gid|Groups|NSpid|PPid):", status, re.MULTILINE)
    assert json.loads((saved / "machine.json").read_text())["host"] is None
    assert (own / "comm").read_text() == "redacted\n"
    assert (own / "cmdline").read_bytes() == b""
    assert not (own / "cgroup").exists()


def test_a_redacted_capture_has_the_same_numbers(redacted: tuple[Victim, Path], look: Callable[..., Result]) -> None:
    it, saved = redacted
    live = look("maps", it.pid, "--source", "pagemap")["rows"]
    rows = look("maps", saved, "--source", "pagemap")["rows"]
    fixed = ("start", "end", "perms", "offset", "dev", "inode", "nr_present", "nr_swapped", "rss", "phys", "kind")
    assert [[row[key] for key in fixed] for row in rows] == [[row[key] for key in fixed] for row in live]
    # One name for each name, and what the kernel says of it is kept.
    assert len({row["path"] for row in rows}) >= len({row["path"].removesuffix(" (deleted)") for row in live})
    for row, was in zip(rows, live, strict=True):
        assert row["path"].endswith(" (deleted)") == was["path"].endswith(" (deleted)")
        assert not was["path"].startswith("[") or row["path"] == was["path"]
    assert look("usage", saved)["target"]["name"] == "redacted"


def test_smaps_and_maps_are_redacted_alike(redacted: tuple[Victim, Path]) -> None:
    it, saved = redacted
    smaps = gzip.decompress((saved / str(it.pid) / "smaps.gz").read_bytes())
    heads = re.findall(rb"^[0-9a-f]+-.*$", smaps, re.MULTILINE)
    assert heads == (saved / str(it.pid) / "maps").read_bytes().splitlines()


@pytest.mark.parametrize(
    ("path", "becomes"),
    [
        (b"/a b\\012c (deleted)", b"/redacted/1 (deleted)"),
        (b"[heap]", b"[heap]"),
        (b"[anon:my secret]", b"[anon:redacted-1]"),
        (b"[anon_shmem:my secret]", b"[anon_shmem:redacted-1]"),
        (b"/dev/zero (deleted)", b"/dev/zero (deleted)"),
        (b"/memfd:secret (deleted)", b"/redacted/1 (deleted)"),
        (b"anon_inode:[io_uring]", b"/redacted/1"),
    ],
)
def test_names_of_vmas_are_redacted(path: bytes, becomes: bytes) -> None:
    line = b"7f00-7f01 rw-p 00000000 00:01 7           "
    assert Redactor().redact("maps", line + path + b"\n") == line + becomes + b"\n"


def test_a_name_with_parentheses_is_redacted_whole() -> None:
    assert Redactor().redact("stat", b"7 (a) b (c) S 1 2\n") == b"7 (redacted) S 1 2\n"


def test_swap_paths_are_redacted_and_their_numbers_kept() -> None:
    text = b"Filename\t\t\t\tType\t\tSize\n/secret\\040file                            file\t\t65532\n"
    done = Redactor().redact("swaps", text)
    assert done == b"Filename\t\t\t\tType\t\tSize\n/redacted/1                            file\t\t65532\n"


def test_an_unknown_file_is_not_kept() -> None:
    assert Redactor().redact("environ", b"SECRET=1") is None


# How it is stored


def test_machine_json_says_where_it_comes_from(victim: Start, look: Callable[..., Result], tmp_path: Path) -> None:
    it = victim("anon")
    look("capture", it.pid, tmp_path / "saved")
    machine = json.loads((tmp_path / "saved" / "machine.json").read_text())
    assert (machine["page_size"], machine["huge_size"]) == (PAGE, read_huge_size())
    assert machine["kernel"] == os.uname().release
    assert (machine["redacted"], machine["torn"]) == (False, False)
    assert machine["unreadable"].keys() <= {"ksm_stat", "ksm_merging_pages"}  # before Linux 6.1, and 5.19
    assert machine["kinds"] == {}
    assert len(machine["hidden"]) >= is_x86_64()  # [vsyscall], and [vvar] on most kernels
    assert look("maps", tmp_path / "saved")["machine"]["kernel"] == os.uname().release


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_only_frames_of_the_process_are_saved(victim: Start, look: Callable[..., Result], tmp_path: Path) -> None:
    it = victim("anon")
    with it.stopped():
        result = look("capture", it.pid, tmp_path / "saved")
        pages = look("pages", it.pid, "--present")["rows"]
    mapped = {row["pfn"] for row in pages if row["pfn"]}
    assert result["rows"][0]["nr_frames"] == len(mapped)
    flags = ProcFS(str(tmp_path / "saved")).open("kpageflags")
    assert isinstance(flags, PackedFile)
    words = {
        (start + place) // 8
        for start, end in zip(flags.starts, flags.ends, strict=True)
        for place in range(0, end - start, 8)
        if read_word(flags, start + place)
    }
    assert words == mapped


def read_word(file: PackedFile, offset: int) -> int:
    word = bytearray(8)
    file.read_into(memoryview(word), offset)
    return int.from_bytes(word, "little")


def test_runs_join_over_short_gaps_only() -> None:
    gap = len(GAP)
    assert list(runs(b"")) == []
    assert list(runs(bytes(100))) == []
    assert list(runs(b"a" + bytes(gap - 1) + b"b")) == [(0, gap + 1)]
    assert list(runs(b"a" + bytes(gap) + b"b" + bytes(3))) == [(0, 1), (gap + 1, gap + 2)]


def test_frames_are_counted_once_and_hidden_ones_never() -> None:
    frames = Frames()
    frames.add_entries([1 << 63 | 7, 1 << 63 | 7, 1 << 63 | 70_000, 1 << 63, 1 << 62 | 9])
    assert frames.nr_frames == 2


def test_a_sparse_tebibyte_needs_little_memory(tmp_path: Path) -> None:
    step = (1 << 40) // PAGE // 5003
    code = (
        "import sys; from mematlas.cli import main; code = main(sys.argv[1:]); "
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]); sys.exit(code)"
    )
    with sparse(1 << 40, [page * step for page in range(5003)]) as program:
        words = ["capture", str(program.pid), str(tmp_path / "saved"), "--json"]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        live = nr_present(program.pid, program.told, ProcFS())
    assert int(done.stdout.splitlines()[-1]) < 60 << 10
    assert nr_present(program.pid, program.told, ProcFS(str(tmp_path / "saved"))) == live == 5003
    assert sum(path.stat().st_size for path in (tmp_path / "saved").rglob("*")) < 2 << 20


def nr_present(pid: int, address: int, procfs: ProcFS) -> int | None:
    with Process(pid, procfs) as process:
        vmas = process.maps("pagemap").vmas
    return next(item.usage.nr_present for item in vmas if item.vma.start <= address < item.vma.end)


def test_a_process_that_runs_on_is_captured(victim: Start, tmp_path: Path) -> None:
    it = victim("anon")
    with Process(it.pid) as process:
        saved = capture(process, str(tmp_path / "saved"))
    assert (saved.pid, saved.redacted) == (it.pid, False)
    assert saved.size == sum(path.stat().st_size for path in (tmp_path / "saved").rglob("*") if path.is_file())
    wait_until(lambda: it.touch("anon", 2).nr_present == 24, "the victim goes on")


def test_zero_pages_that_could_not_be_found_stay_unknown(
    victim: Start, look: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot_tell(reader: PageReader, *_: object) -> None:
        reader.zero_known = False

    it = victim("zero")
    with monkeypatch.context() as patch:
        patch.setattr(PageReader, "_mark_zero", cannot_tell)
        look("capture", it.pid, tmp_path / "saved")
    result = look("usage", tmp_path / "saved", "--source", "pagemap")
    assert (result["rows"][0]["rss"], result["rows"][0]["zero"]) == (None, None)
    assert any("zero pages cannot be distinguished" in note for note in texts(result["notes"]))


def test_huge_pages_that_could_not_be_found_stay_unknown(
    victim: Start, look: Callable[..., Result], tmp_path: Path
) -> None:
    it = victim("thp")
    saved = tmp_path / "saved"
    look("capture", it.pid, saved)
    assert look("usage", saved, "--source", "pagemap")["rows"][0]["thp"] is not None
    machine = json.loads((saved / "machine.json").read_text())
    (saved / "machine.json").write_text(json.dumps(machine | {"huge_known": False}))
    assert look("usage", saved, "--source", "pagemap")["rows"][0]["thp"] is None
