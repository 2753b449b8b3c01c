"""What a program or a stranger makes large, endless or odd is read within bounds, and shown to nobody."""

from __future__ import annotations

import gc
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import make_process, texts
from mematlas.cli import main
from mematlas.errors import FormatError, NotHeld, TargetNotFound, TooLarge
from mematlas.kernel import directory, maps, procfs
from mematlas.kernel.cmdline import MAX_COMMAND, read_command
from mematlas.kernel.directory import MAX_LINE
from mematlas.kernel.maps import CUT, MAX_PATH, SHORT_PATH, parse_maps, read_maps
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.packed import write_packed
from mematlas.kernel.procfs import ProcessDir, ProcFS
from mematlas.kernel.smaps import read_smaps, read_vm_flags
from mematlas.kernel.status import parse_status, read_stat, read_status, status_bytes
from mematlas.kernel.swaps import read_swaps
from mematlas.model.search import in_capture

SECRET = "root:$6$notforyou:19000:0:99999:7:::"
LINE = b"%x-%x r--p 0 fe:00 7 "


def make_capture(root: Path) -> Path:
    """Make a capture of process 7; return the directory of that."""
    own = make_process(root, maps="1000-2000 r--p 0 00:00 0\n")
    (root / "machine.json").write_text(json.dumps({"page_size": 4096, "devices": {"shmem": [], "hugetlb": []}}))
    return own


def line(number: int, path: bytes) -> bytes:
    """Return a line of maps."""
    return LINE % (number << 12, number + 1 << 12) + path


# Lines


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_lines_are_whole_wherever_the_pieces_end(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"a\n\nbc d\r\x0c\n" + b"e" * 99 + b"\nlast"
    (make_process(tmp_path) / "maps").write_bytes(text)
    monkeypatch.setattr(directory, "BATCH_SIZE", size)

    with ProcFS(str(tmp_path), 4096).process(7) as process:
        assert list(process.lines("maps")) == text.split(b"\n")


def test_long_line_begins_and_ends_as_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"begin" + b"x" * (9 * MAX_LINE) + b"end"
    (make_process(tmp_path) / "maps").write_bytes(text + b"\nnext\n")
    monkeypatch.setattr(directory, "BATCH_SIZE", MAX_LINE // 3)

    with ProcFS(str(tmp_path), 4096).process(7) as process:
        cut, following = process.lines("maps")
    assert (cut[:6], cut[-4:], following) == (b"beginx", b"xend", b"next")
    assert MAX_LINE < len(cut) < 2 * MAX_LINE


def test_text_without_an_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_TEXT", 1000)
    (make_process(tmp_path) / "maps").write_bytes(b"x" * 1001)

    with ProcFS(str(tmp_path), 4096).process(7) as process:
        with pytest.raises(TooLarge, match="/7/maps: larger than"):
            list(process.lines("maps"))
        with pytest.raises(TooLarge):
            process.read("maps", 1000)
        assert len(process.read("maps", 1001)) == 1001


def test_command_line_is_read_to_a_bound(tmp_path: Path) -> None:
    (make_process(tmp_path) / "cmdline").write_bytes(b"word\0" + b"x" * (MAX_COMMAND + 9))

    with ProcFS(str(tmp_path), 4096).process(7) as process:
        assert len(read_command(process)) == MAX_COMMAND
        assert read_command(process, 4) == "word"


# Paths


def test_path_of_any_length_that_can_be_opened_is_kept() -> None:
    (vma,) = parse_maps([line(1, b"/" + b"x" * (MAX_PATH - 1))])
    assert (len(vma.path), vma.path_cut) == (MAX_PATH, False)


def test_longer_path_is_cut_and_says_so() -> None:
    (vma,) = parse_maps([line(1, b"/" + b"x" * MAX_PATH)])
    assert (vma.path[-4:], len(vma.path), vma.path_cut) == ("x" + CUT, MAX_PATH + len(CUT), True)


def test_paths_of_one_process_are_short_when_they_are_too_much_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "PATHS_ROOM", 3000)
    long = b"/" + b"x" * 999
    vmas = parse_maps([line(number, long) for number in range(1, 6)] + [line(6, b"/usr/bin/cat")])

    assert [vma.path_cut for vma in vmas] == [False] * 3 + [True] * 2 + [False]
    assert vmas[4].path == long[:SHORT_PATH].decode() + CUT


def test_cut_path_has_a_mark_in_json_and_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = make_capture(tmp_path)
    (own / "maps").write_bytes(line(1, b"/" + b"x" * 5000) + b"\n" + line(2, b"/short"))
    with open(own / "pagemap.packed", "wb") as file:
        write_packed(file, [])

    assert main(["maps", str(tmp_path), "--source", "pagemap", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["path_cut"] for row in found["rows"]] == [True, False]
    assert "the path of a VMA is too long and cut: the dots at the end show where" in texts(found["notes"])


# Captures


def link_to_secret(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_text(SECRET)
    path.symlink_to(secret)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


ODD: dict[str, Callable[[Path], None]] = {
    "a link": link_to_secret,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": lambda path: os.mkfifo(path),
    "a directory": lambda path: path.mkdir(),
    "a socket": make_socket,
}
FILES = ("machine.json", "swaps", "kpagecount.packed", "7/maps", "7/smaps", "7/stat", "7/status", "7/pagemap.packed")


def open_one(root: Path, name: str) -> None:
    place = ProcFS(str(root))
    directory, _, bare = name.rpartition("/")
    with place.process(7) if directory else place as held:
        held.open(bare.removesuffix(".packed")) if ".packed" in name else held.read(bare)


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("name", FILES)
def test_only_regular_files_of_a_capture_are_read(name: str, what: str, tmp_path: Path) -> None:
    root = tmp_path / "x"
    make_capture(root)
    (root / name).unlink(missing_ok=True)
    ODD[what](root / name)

    with pytest.raises(FormatError, match=f"{name}: expected a regular file") as caught:
        open_one(root, name)
    assert "notforyou" not in str(caught.value)


def test_a_process_of_a_capture_is_no_link(tmp_path: Path) -> None:
    make_capture(tmp_path)
    (tmp_path / "8").symlink_to("7")

    with pytest.raises(TargetNotFound):
        ProcFS(str(tmp_path)).process(8)


def test_a_capture_that_is_exchanged_meanwhile_is_not_read(tmp_path: Path) -> None:
    make_capture(tmp_path / "mine")
    make_capture(tmp_path / "yours")
    (tmp_path / "yours" / "7" / "stat").write_text(SECRET)
    place = ProcFS(str(tmp_path / "mine"))
    os.rename(tmp_path / "mine", tmp_path / "old")
    os.rename(tmp_path / "yours", tmp_path / "mine")

    with place.process(7) as process:
        assert read_stat(process).name == "made up"


@pytest.mark.parametrize("name", ["maps", "smaps", "stat", "status", "swaps", "meminfo"])
def test_no_error_shows_what_stands_in_a_capture(name: str, tmp_path: Path) -> None:
    own = make_capture(tmp_path)
    path = tmp_path / name if name in ("swaps", "meminfo") else own / name
    path.write_text(f"{SECRET}\n{SECRET}: x kB\n")

    with pytest.raises(FormatError) as caught:
        read_one(name, ProcFS(str(tmp_path)))
    assert f"{name}" in str(caught.value)
    assert "notforyou" not in str(caught.value) + caught.value.text


def read_one(name: str, place: ProcFS) -> None:
    readers: dict[str, Callable[[ProcessDir], object]] = {
        "maps": read_maps,
        "smaps": read_smaps,
        "stat": read_stat,
        "status": read_status,
    }
    if name in readers:
        with place.process(7) as process:
            readers[name](process)
    else:
        {"swaps": read_swaps, "meminfo": read_meminfo}[name](place)


def test_file_that_is_too_large_is_not_even_opened(tmp_path: Path) -> None:
    own = make_capture(tmp_path)
    os.truncate(own / "maps", 4 << 30)  # a hole

    with ProcFS(str(tmp_path)).process(7) as process, pytest.raises(TooLarge, match="maps"):
        read_maps(process)


def test_a_capture_has_no_more_vmas_than_a_kernel_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MAX_CAPTURED_VMAS", 3)
    own = make_capture(tmp_path)
    (own / "maps").write_bytes(b"\n".join(line(number, b"/x") for number in range(1, 5)))

    with ProcFS(str(tmp_path)).process(7) as process, pytest.raises(FormatError, match="at most 3 VMAs"):
        read_maps(process)


@pytest.mark.parametrize(
    "text",
    [
        b"2000-1000 r--p 0 00:00 0",
        b"1000-1800 r--p 0 00:00 0",
        b"2000-3000 r--p 0 00:00 0\n1000-2000 r--p 0 00:00 0",
        b"1000-20000000000000000 r--p 0 00:00 0",
        b"1000-2000 r--p -1 00:00 0",
        b"1000-2000 r--p 0 00:00 " + b"9" * 40,
        b"1000-2000 r--p 0 " + b"0" * 900 + b":00 0",
    ],
)
def test_vmas_of_a_capture_that_cannot_be_are_an_error(text: bytes, tmp_path: Path) -> None:
    own = make_capture(tmp_path)
    (own / "maps").write_bytes(text)

    with ProcFS(str(tmp_path)).process(7) as process, pytest.raises(FormatError, match="maps"):
        read_maps(process)


@pytest.mark.parametrize(
    "fields", [b"Rss: " + b"9" * 60 + b" kB", b"Rss: -1 kB", b"\n".join(b"F%d: 1 kB" % number for number in range(300))]
)
def test_fields_of_a_capture_that_cannot_be_are_an_error(fields: bytes, tmp_path: Path) -> None:
    own = make_capture(tmp_path)
    (own / "smaps").write_bytes(b"1000-2000 r--p 0 00:00 0\n" + fields + b"\n")

    with ProcFS(str(tmp_path)).process(7) as process, pytest.raises(FormatError, match="smaps"):
        read_smaps(process)


def test_flags_that_are_no_letters_are_an_error(tmp_path: Path) -> None:
    own = make_capture(tmp_path)
    (own / "smaps").write_bytes(b"1000-2000 r--p 0 00:00 0\nVmFlags: \xff\n")

    with ProcFS(str(tmp_path)).process(7) as process, pytest.raises(FormatError, match="smaps"):
        read_vm_flags(process)


@pytest.mark.parametrize("value", ["x", "-1", "9" * 5000, "²"])
def test_amount_in_status_that_is_none_is_an_error(value: str) -> None:
    with pytest.raises(FormatError, match="status"):
        parse_status(f"Name:\tx\nVmRSS:\t{value} kB\n".encode())


def test_program_that_is_called_like_an_amount_is_read() -> None:
    status = parse_status(b"Name:\tmany kB\nVmRSS:\t 4 kB\n")
    assert (status["Name"], status_bytes(status, "VmRSS")) == ("many kB", 4096)


def test_directory_called_by_digits_of_another_script_is_no_process(tmp_path: Path) -> None:
    make_capture(tmp_path)
    (tmp_path / "²").mkdir()
    (tmp_path / "٧").mkdir()
    (tmp_path / "08").mkdir()
    assert ProcFS(str(tmp_path)).pids() == [7]


def test_process_of_a_capture_that_cannot_be_opened_leaves_no_other_open(tmp_path: Path) -> None:
    make_capture(tmp_path)
    (tmp_path / "8").write_text("")
    gc.collect()  # or descriptors of others may be closed in between
    before = os.listdir("/proc/self/fd")
    with pytest.raises(TargetNotFound):
        in_capture(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before


def test_crowd_of_files_in_a_capture_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "MAX_ENTRIES", 5)
    make_capture(tmp_path)
    for number in range(5):
        (tmp_path / f"file{number}").touch()
    with pytest.raises(FormatError, match="at most 5 files"):
        ProcFS(str(tmp_path)).pids()


def test_name_with_a_slash_is_none_of_a_capture(tmp_path: Path) -> None:
    make_capture(tmp_path)
    with ProcFS(str(tmp_path)).process(7) as process, pytest.raises(NotHeld):
        process.open_fd("../machine.json")


def test_text_of_megabytes_in_machine_json_is_an_error(tmp_path: Path) -> None:
    make_capture(tmp_path)
    (tmp_path / "machine.json").write_text(json.dumps({"page_size": 4096, "host": "x" * 9000}))
    with pytest.raises(FormatError, match=r"machine\.json: expected host"):
        ProcFS(str(tmp_path))
    (tmp_path / "machine.json").write_text("[" + "{}," * (3 << 20) + "{}]")
    with pytest.raises(TooLarge, match=r"machine\.json"):
        ProcFS(str(tmp_path))
