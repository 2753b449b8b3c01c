"""What of files is in the page cache, against mincore(2) and the workloads' own knowledge."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conftest import NOBODY, Outcome
from helpers import PAGE, mematlas, program, steadily, texts
from mematlas import Machine
from mematlas.cli import main
from mematlas.errors import BadInput, NotSupported, TargetNotFound
from mematlas.kernel import cachestat
from mematlas.kernel.backing import has_cachestat
from mematlas.kernel.madvise import MADV_GUARD_INSTALL, takes
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.vmfile import LiveFiles
from mematlas.observe import cache
from stuck import stuck
from victim import DEADLINE, Victim

LEFT_OUT = "files or directories left out: they cannot be opened or are too long"
NR_PAGES, NR_OUT = 101, 23
MAPS_FILE = """
import ctypes, json, mmap, os, sys
path, nr_pages = json.loads(sys.argv[1])
fd = os.open(path, os.O_RDONLY)
area = mmap.mmap(fd, nr_pages * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
os.close(fd)
print(os.getpid(), flush=True)
"""
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def in_ram(path: Path) -> list[bool]:
    """Return which pages of a file are in RAM: mincore(2)."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    vector = ctypes.create_string_buffer(-(-size // PAGE))
    assert libc.mincore(address, size, vector) == 0
    libc.munmap(address, size)
    return [bool(byte & 1) for byte in vector.raw]


def make_file(path: Path, nr_pages: int = NR_PAGES, nr_out: int = 0) -> Path:
    """Make a file that is on the disk and in RAM, but for its first pages, which are on the disk alone."""
    path.write_bytes(bytes(nr_pages * PAGE))
    with open(path, "rb", buffering=0) as file:
        os.fsync(file.fileno())
        if nr_out:
            # Of a large folio no part can be dropped: all of it, and what is wanted is read again, page by page.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for page in range(nr_out, nr_pages):
            os.pread(file.fileno(), PAGE, page * PAGE)
    return path


def rows_of(*words: object) -> list[dict[str, Any]]:
    """Return the rows of the command's JSON."""
    run = mematlas("cache", "--json", *words)
    assert run.returncode == 0, run.stderr
    rows: list[dict[str, Any]] = json.loads(run.stdout)["rows"]
    return rows


@steadily
def test_pages_in_ram_are_those_of_mincore(disk_path: Path) -> None:
    path = make_file(disk_path / "partly", nr_out=NR_OUT)
    (row,) = rows_of(path)
    pages = in_ram(path)

    assert not all(pages)
    assert (row["size"], row["resident"]) == (NR_PAGES * PAGE, pages.count(True) * PAGE)
    bounds = [NR_PAGES * cell // 16 for cell in range(17)]
    assert row["cells"] == [pytest.approx(pages[low:high].count(True) / (high - low)) for low, high in pairwise(bounds)]
    assert [row[key] for key in ("path", "inode", "share")] == [
        *(str(path), path.stat().st_ino),
        pytest.approx(pages.count(True) / NR_PAGES, abs=1e-4),
    ]


@steadily
def test_mincore_in_the_place_of_cachestat_tells_the_same_and_says_what_it_cannot(
    disk_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(make_file(disk_path / "either", nr_out=NR_OUT))
    (newer,) = Machine().cache([path]).files

    def missing(fd: int, offset: int, size: int) -> None:
        raise NotSupported("cachestat", "Linux 6.5")

    monkeypatch.setattr(cachestat, "cachestat_counts", missing)
    result = Machine().cache([path])
    (older,) = result.files

    assert (older.resident, older.cells) == (newer.resident, newer.cells)
    assert (older.dirty, older.writeback, older.evicted, older.recently_evicted) == (None,) * 4
    assert result.reading.source == "mincore"
    assert "of 1 file are unknown: mincore was asked, since cachestat needs Linux 6.5" in texts(result.reading.notes)[0]


def test_nothing_is_read_in_and_nothing_else_changes(disk_path: Path) -> None:
    path = make_file(disk_path / "asleep", nr_out=NR_PAGES)
    assert not any(in_ram(path))
    long_ago = 10**18
    os.utime(path, ns=(long_ago, long_ago))  # reading it would set the time of access
    os.utime(disk_path, ns=(long_ago, long_ago))

    rows_of(path)
    rows_of(disk_path)

    assert (path.stat().st_atime_ns, disk_path.stat().st_atime_ns) == (long_ago, long_ago)
    assert not any(in_ram(path))


@pytest.mark.skipif(not has_cachestat(), reason="needs cachestat: Linux 6.5")
@steadily
def test_pages_that_were_written_are_dirty_until_they_are_on_the_disk(disk_path: Path) -> None:
    path = make_file(disk_path / "written")
    with open(path, "r+b") as file:
        file.write(bytes(NR_PAGES * PAGE))
        file.flush()
        (dirty,) = rows_of(path)
        os.fsync(file.fileno())
        (clean,) = rows_of(path)

    assert (dirty["dirty"], dirty["writeback"], clean["dirty"], clean["writeback"]) == (NR_PAGES * PAGE, 0, 0, 0)


@pytest.mark.skipif(not has_cachestat(), reason="needs cachestat: Linux 6.5")
@pytest.mark.root("CAP_SYS_ADMIN")
def test_shared_memory_in_swap_is_in_swap_and_not_evicted(swap: Path, victim: Callable[..., Victim]) -> None:
    made = victim("shared_anon_swapped")
    area = made["shared_anon_swapped"]
    with made.stopped():
        rows = rows_of(made.pid, "--limit", 1000)
    row = next(row for row in rows if row["size"] == area.size and row["fs"] == "tmpfs")

    assert area.nr_swapped
    assert (row["swap"], row["evicted"]) == (area.nr_swapped * PAGE, 0)


# --- trees


@pytest.fixture
def tree(disk_path: Path) -> Path:
    """Return a directory with files, names of all sorts, and much that is no file."""
    top = disk_path / f"tree-{os.urandom(4).hex()}"
    (top / "a" / "b").mkdir(parents=True)
    make_file(top / "one", 7)
    make_file(top / "a" / ("x" * 255), 11)
    make_file(top / "a" / "b" / os.fsdecode(b"no-utf8-\xff\n"), 13)
    make_file(top / "empty", 0)
    os.link(top / "one", top / "a" / "same-as-one")
    outside = make_file(disk_path / "outside", 17)
    (top / "link").symlink_to(outside)
    (top / "a" / "link-to-directory").symlink_to(disk_path)
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(top / "socket"))
    if os.geteuid() == 0:
        os.mknod(top / "tty", 0o20666, os.makedev(5, 0))
    return top


@steadily
def test_tree_has_its_regular_files_each_once(tree: Path) -> None:
    rows = rows_of(tree)
    found = {(row["path"], row["size"], row["resident"]) for row in rows}
    one = next(row["path"] for row in rows if row["size"] == 7 * PAGE)

    assert one in (f"{tree}/one", f"{tree}/a/same-as-one")
    assert found == {
        (one, 7 * PAGE, 7 * PAGE),
        (f"{tree}/a/{'x' * 255}", 11 * PAGE, 11 * PAGE),
        (f"{tree}/a/b/no-utf8-\udcff\n", 13 * PAGE, 13 * PAGE),
        (f"{tree}/empty", 0, 0),
    }


def test_what_is_named_twice_counts_once(tree: Path) -> None:
    assert len(rows_of(tree, tree / "a", tree / "one")) == len(rows_of(tree))


@steadily
def test_total_is_of_all_files_whatever_is_shown(tree: Path) -> None:
    result = json.loads(mematlas("cache", tree, "--limit", 1, "--json").stdout)
    text = mematlas("cache", tree, "--limit", 1).stdout.splitlines()

    assert (len(result["rows"]), result["total"]["resident"]) == (1, 31 * PAGE)
    assert [line.split()[-1] for line in text[-2:]] == ["others", "total"]


@steadily
def test_directories_and_file_systems_are_added_up(tree: Path) -> None:
    by_directory = {row["name"]: row["resident"] // PAGE for row in rows_of(tree / "a", "--by", "directory")}
    (by_fs,) = rows_of(tree, "--by", "fs")

    assert by_directory == {f"{tree}/a": 18, f"{tree}/a/b": 13}
    assert (by_fs["nr_files"], by_fs["resident"]) == (4, 31 * PAGE)


def test_tree_deeper_than_calls_can_be_nested_is_walked(disk_path: Path) -> None:
    top = disk_path / "deep"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(nr_levels := 1201):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    (row,) = rows_of(top)

    assert row["path"] == f"{top}{'/d' * nr_levels}/file"
    subprocess.run(["rm", "-r", str(top)], check=True)


def test_what_lies_so_deep_that_no_path_leads_there_is_left_out_and_said(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(300):  # a path longer than a message between processes can be
        os.mkdir("d" * 250, dir_fd=fd)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    run = mematlas("cache", tree, "--json")
    subprocess.run(["rm", "-r", str(tree / ("d" * 250))], check=True)

    assert (run.returncode, run.stderr) == (0, "")
    assert f"1 {LEFT_OUT}" in texts(json.loads(run.stdout)["notes"])


def test_names_of_letters_of_several_bytes_fit_into_a_message(tree: Path) -> None:
    top = tree / "a" / ("\u4e8c" * 85) / ("\udcff" * 255)
    top.mkdir(parents=True)
    for number in range(240):
        (top / f"{number}".ljust(87, "\u4e09")[:85]).touch()

    assert len(rows_of(top, "--limit", 999)) == 240


def test_path_that_is_too_long_is_refused_in_a_line() -> None:
    run = mematlas("cache", "/" + "x" * 100_000)

    assert run.returncode in (1, 3)
    assert len(run.stderr.splitlines()) == 1
    assert len(run.stderr) < 200


@pytest.mark.root("CAP_SYS_ADMIN")
def test_no_other_file_system_is_entered(tree: Path) -> None:
    (tree / "a" / "same-as-one").unlink()
    run = in_mounts('mount -t tmpfs none "$1/a" && echo x > "$1/a/y" && exec "$0" -m mematlas cache "$1" --json', tree)
    result = json.loads(run.stdout)

    assert {row["path"] for row in result["rows"]} == {f"{tree}/one", f"{tree}/empty"}
    assert "1 mount point left out: each file system is to be named itself" in texts(result["notes"])


def in_mounts(line: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a line of shell that mounts something, in mounts of its own: $0 is Python."""
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line, sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    if "unshare:" in run.stderr or "mount:" in run.stderr:
        pytest.skip(f"needs to mount: {run.stderr.splitlines()[-1]}")
    return run


OVERLAID = """
mkdir "$1/lower" "$1/upper" "$1/work" "$1/merged" && mv "$1/file" "$1/lower" &&
mount -t overlay none -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$1/merged" && mkfifo "$1/fifo" || exit
"$0" -I -S -c "$2" "$3" > "$1/fifo" & read -r said < "$1/fifo"
"$0" -m mematlas cache "$1/merged" --json; code=$?
kill $!
exit $code
"""


@pytest.mark.root("CAP_SYS_ADMIN")
@steadily
def test_pages_of_a_file_on_overlayfs_are_those_of_the_file_below(disk_path: Path) -> None:
    top = disk_path / f"overlay-{os.urandom(4).hex()}"
    top.mkdir()
    make_file(top / "file", nr_out=NR_OUT)
    code = f"{MAPS_FILE}import time; time.sleep(1e6)"
    result = json.loads(in_mounts(OVERLAID, top, code, json.dumps([f"{top}/merged/file", 3])).stdout)
    (row,) = result["rows"]

    pages = in_ram(top / "lower" / "file")
    # Before 6.8 a file of it is mapped as the one below, and called so.
    assert (row["resident"], row["dirty"]) == (pages.count(True) * PAGE, None)
    assert row["fs"] == "overlay" or not takes(MADV_GUARD_INSTALL)
    assert not all(pages)
    assert len(row["mappers"]) == 1
    assert "their pages are those of files of another file system" in texts(result["notes"])[0]


ENDLESS = """
mkdir "$1/lower" "$1/upper" "$1/work" "$1/merged" && mv "$1/file" "$1/endless" "$1/lower" &&
mount -t overlay none -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$1/merged" || exit
"$0" -m mematlas cache "$1/merged/endless"
"$0" -m mematlas willneed "file:$1/merged" --dry-run --json >&2
"$0" -m mematlas cache "$1/merged" --json
"""


@pytest.mark.root("CAP_SYS_ADMIN")
def test_a_file_of_holes_without_end_on_overlayfs_does_not_keep_us_from_the_others(disk_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=disk_path) as name:
        make_file(Path(name, "file"), nr_out=NR_OUT)
        Path(name, "endless").touch()
        try:
            os.truncate(f"{name}/endless", 8 << 40)  # mincore would be asked for a minute
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            pytest.skip("needs a disk that takes files of 8 TiB: this one has blocks of 1 KiB")
        run = in_mounts(ENDLESS, Path(name))
    result = json.loads(run.stdout)
    refused, planned = run.stderr.splitlines()[0], json.loads(run.stderr.split("\n", 1)[1])

    assert refused.endswith("/merged/endless: a file of more than 268,435,456 pages: not supported here")
    for shown in (result, planned):
        assert [row["path"] for row in shown["rows"]] == [f"{name}/merged/file"]
        assert f"1 {LEFT_OUT}" in texts(shown["notes"])


# --- what cannot be had


def test_missing_path_is_not_found_and_nothing_is_shown(tree: Path) -> None:
    run = mematlas("cache", tree, tree / "nosuch")

    assert (run.returncode, run.stdout) == (3, "")
    assert run.stderr == f"mematlas: {tree}/nosuch: no such file or directory\n"


@pytest.mark.parametrize(
    ("name", "what"),
    [("fifo", "a FIFO"), ("socket", "a socket"), ("link", "a link, and none is followed: give .*/outside")],
)
def test_what_is_no_file_is_refused_unopened(name: str, what: str, tree: Path) -> None:
    with pytest.raises(BadInput, match=f"/{name} is {what}"):
        Machine().cache([str(tree / name)])


@pytest.mark.parametrize("word", ["nosuchfile", "nosuch:x", "", "/\udcff"])
def test_word_that_is_neither_file_nor_process_is_not_found(word: str) -> None:
    assert mematlas("cache", word).returncode == 3


def test_word_that_is_both_is_refused_with_both_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with program("import sys\nprint(1, flush=True)") as running:
        name = Path(f"/proc/{running.pid}/comm").read_text().strip()
        for word, prefix in ((name, "name:"), (str(running.pid), "pid:")):
            (tmp_path / word).touch()
            monkeypatch.chdir(tmp_path)
            run = mematlas("cache", word)

            assert run.returncode == 3
            assert f"is both a file here and a process: use ./{word} or {prefix}{word}" in run.stderr
            assert rows_of(f"file:{word}")[0]["path"] == word


def test_what_may_not_be_opened_is_left_out_and_said(
    tree: Path, as_nobody: Callable[..., Outcome], disk_path: Path
) -> None:
    disk_path.chmod(0o755)
    (tree / "one").chmod(0)
    (tree / "a" / "b").chmod(0)
    run = as_nobody(["cache", str(tree), "--json"])
    named = as_nobody(["cache", str(tree / "one")])
    result = json.loads(run.stdout)

    assert str(tree / "one") not in [row["path"] for row in result["rows"]]
    assert any(note["code"] == "files-refused" for note in result["notes"])
    assert named.code == 4
    assert f"{tree}/one: permission denied (needs CAP_DAC_READ_SEARCH" in named.stderr


@pytest.mark.root("CAP_SYS_ADMIN")
@steadily  # on a busy machine others take as long
def test_process_whose_file_system_does_not_answer_has_its_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "PATIENCE", 1.0)
    with stuck("mounted", tmp_path) as pid:
        assert main(["cache", str(pid), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)

    assert any("/python" in row["path"] for row in result["rows"])
    assert f"process {pid}: not all of it: its file system does not answer" in texts(result["notes"])


# --- who maps, and what processes have


@pytest.fixture
def mapped(disk_path: Path) -> Iterator[tuple[Path, int]]:
    """Yield a file, and the PID of a process that maps it."""
    path = make_file(disk_path / "mapped")
    with program(MAPS_FILE, [str(path), NR_PAGES]) as running:
        yield path, running.pid


MAPS_LOW = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
fd = os.open(json.loads(sys.argv[1]), os.O_RDONLY)
print(libc.mmap(0x1230000, os.sysconf("SC_PAGESIZE"), 1, 0x100002, fd, 0), flush=True)  # MAP_FIXED_NOREPLACE, private
os.close(fd)
"""


@pytest.mark.root("CAP_SYS_ADMIN")
def test_files_that_are_mapped_low_are_found(disk_path: Path) -> None:
    # maps writes 01230000, and the link in map_files is 1230000: so the program itself where it is not moved about.
    path = make_file(disk_path / "low")
    with program(MAPS_LOW, str(path)) as running:
        assert running.told == 0x1230000
        assert str(path) in [row["path"] for row in rows_of(running.pid, "--limit", 1000)]
        with ProcFS().process(running.pid) as process:
            (line,) = [line for line in process.lines("maps") if line.startswith(b"01230000-")]
            assert LiveFiles(process)._status_of(line.split()[0].decode()).st_ino == path.stat().st_ino


def test_who_maps_a_file_is_told(mapped: tuple[Path, int], disk_path: Path) -> None:
    path, pid = mapped
    other = make_file(disk_path / "unmapped", 3)
    rows = {row["path"]: row["mappers"] for row in rows_of(path, other)}

    assert rows == {str(path): [pid], str(other): []}
    assert str(pid) in mematlas("cache", path).stdout.splitlines()[1]


def test_files_of_a_process_are_those_it_maps_and_has_open(mapped: tuple[Path, int], disk_path: Path) -> None:
    path, pid = mapped
    gone = make_file(disk_path / "gone", 5)
    code = f"import os, sys; file = open({str(gone)!r}); os.unlink(file.name); print(1, flush=True)"
    with program(code) as running:
        opened = {row["path"]: row["size"] for row in rows_of(running.pid, "--limit", 1000)}
    found = {row["path"]: row["mappers"] for row in rows_of(pid, "--limit", 1000)}

    assert opened[f"{disk_path}/gone (deleted)"] == 5 * PAGE
    assert found[str(path)] == [pid]
    if os.geteuid() == 0:  # others may not know what of a library is in RAM
        assert any("/libc" in name and pid in (mappers or ()) for name, mappers in found.items())


def test_own_files_need_no_right_and_what_others_hide_is_said(
    disk_path: Path, as_nobody: Callable[..., Outcome]
) -> None:
    disk_path.chmod(0o755)
    path = make_file(disk_path / "own", nr_out=NR_OUT)
    os.chown(path, NOBODY, NOBODY)
    (row,) = json.loads(as_nobody(["cache", str(path), "--json"]).stdout)["rows"]
    hidden = json.loads(as_nobody(["cache", "self", "--json"]).stdout)
    others = as_nobody(["cache", sys.executable])

    assert row["resident"] == in_ram(path).count(True) * PAGE
    # Since Linux 6.14, and in older stable kernels: what of a library is in RAM, nobody has the right to know.
    libraries = [row["path"] for row in hidden["rows"] if "/lib" in row["path"]]
    codes = [note["code"] for note in hidden["notes"]]
    assert libraries or "files-hidden" in codes
    assert libraries or codes[-1] == "more-rights"
    assert "sudo -- " in next((note["text"] for note in hidden["notes"] if note["code"] == "more-rights"), "sudo -- ")
    assert others.code in (2, 4)


def test_capture_has_no_page_cache() -> None:
    saved = Path(__file__).parents[1] / "fuzz" / "corpus" / "captures" / "whole"
    run = mematlas("cache", "-p", saved)

    assert run.returncode == 5
    assert "page cache" in run.stderr


def test_process_that_there_is_not_is_not_found() -> None:
    with pytest.raises(TargetNotFound):
        Machine().cache(targets=["nosuchprogram"])
