"""What reaches the reader: odd paths in every form, hidden frames, exit codes, and pages of another size."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome
from helpers import PAGE, make_process, mematlas, program, steadily, texts, write_words
from mematlas import Process, cli, errors
from mematlas.cli.mistakes import how_to_install
from mematlas.kernel.pagemap import has_soft_dirty
from mematlas.kernel.procfs import ProcFS
from mematlas.model.search import Candidate
from mematlas.notes import Notes
from mematlas.views.format import format_exact
from mematlas.views.since import Since
from mematlas.views.usage import Subject, usage_table
from mematlas.words import Source
from victim import PATH_KINDS, Area, Victim

NOBODY = 65534
VSYSCALL = 0xFFFFFFFFFF600000
Start = Callable[..., Victim]


def rows_of(text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(text)["rows"]
    return rows


def shown(area: Area) -> str:
    """Return the path as the kernel has it: a name may hold a newline, or the "\\012" that maps writes for one."""
    return area.path + (" (deleted)" if area.deleted else "")


@pytest.fixture
def odd(victim: Start) -> Victim:
    return victim(*PATH_KINDS)


def test_paths_are_whole_in_json(odd: Victim) -> None:
    by_start = {int(row["start"], 16): row["path"] for row in rows_of(mematlas("maps", odd.pid, "--json").stdout)}

    for kind in PATH_KINDS:
        assert by_start[odd[kind].address] == shown(odd[kind])


def test_paths_are_whole_in_csv_as_escapes(odd: Victim) -> None:
    table = csv.DictReader(io.StringIO(mematlas("maps", odd.pid, "--format", "csv").stdout))
    by_start = {int(row["start"], 16): row["path"] for row in table}

    for kind in PATH_KINDS:
        assert by_start[odd[kind].address] == format_exact(shown(odd[kind]))
    assert by_start[odd["path_escapes"].address].endswith("/\\x1b]0;title\\x07\\u009b31m\\u202e\\rx")


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_no_name_reaches_the_terminal_as_it_is(form: str, odd: Victim) -> None:
    odd.tell("rename", name="\x1b[31mred\x9b1m\u202e")
    address = f"{odd['path_escapes'].address:#x}"
    lines = (
        *(["usage"], ["usage", "--verify"], ["maps"], ["map"], ["hist"], ["map", "--cell", "1"], ["tables"]),
        *(["translate", address], ["pages", address], ["tables", address], ["tables", "--list", "--range", address]),
        *(["pageout", "--dry-run", address], ["cold", address], ["collapse", address], ["willneed", address]),
        *(["maps", "--path", "none\x1b[m"], ["usage", "\x1b[m"], ["maps", "0xz\x1b[m"]),
    )
    for command, *words in lines:
        run = mematlas(command, odd.pid, *words, "--format", form)
        assert (run.stdout + run.stderr).replace("\n", "").isprintable(), command
        assert run.stdout or run.returncode


def test_path_never_breaks_a_line_of_text(odd: Victim) -> None:
    run = mematlas("maps", odd.pid, "file")

    assert run.stdout.isascii()
    assert sum("/new\\nline" in line for line in run.stdout.splitlines()) == 1
    assert sum("\\xff\\xfe\\x80 bytes" in line for line in run.stdout.splitlines()) == 1
    assert all(line.startswith(("0x", "START", "total")) for line in run.stdout.splitlines())


def test_output_that_is_ascii_alone_ends_in_no_error(odd: Victim) -> None:
    for command in ("maps", "map", "hist"):
        run = mematlas(command, odd.pid, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
        assert (run.returncode, run.stdout.isascii()) == (0, True)


@pytest.mark.parametrize("kind", PATH_KINDS)
def test_vma_is_found_by_its_path(kind: str, odd: Victim) -> None:
    name = shown(odd[kind]).rsplit("/", 1)[-1]
    rows = rows_of(mematlas("maps", odd.pid, "--path", name, "--json").stdout)

    assert f"{odd[kind].address:#x}" in [row["start"] for row in rows]


# --- the kernel's own page


def test_vsyscall_is_listed_and_unknown(victim: Start) -> None:
    pid = victim("anon").pid
    rows = rows_of(mematlas("maps", pid, "--json").stdout)
    if rows[-1]["path"] != "[vsyscall]":
        pytest.skip("needs vsyscall=xonly or emulate (x86)")

    assert (rows[-1]["start"], rows[-1]["kind"], rows[-1]["nr_present"]) == (f"{VSYSCALL:#x}", "vsyscall", None)
    (row,) = rows_of(mematlas("translate", pid, f"{VSYSCALL:#x}", "--json").stdout)
    assert (row["state"], row["pfn"]) == ("unknown", None)
    (page,) = rows_of(mematlas("pages", pid, "vsyscall", "--json").stdout)
    assert page["state"] == "unknown"


# --- hidden frames


@pytest.fixture
def hidden(victim: Start, as_nobody: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Return a function that runs a command as nobody on a process of nobody's."""
    area = victim("anon_full", uid=NOBODY)["anon_full"]

    def run(command: str, *words: str) -> Outcome:
        place = [f"{area.address:#x}"] if command in ("translate", "pages") else []
        outcome: Outcome = as_nobody([command, str(area.pid), *place, *words])
        assert outcome.code == 0, outcome.stderr
        return outcome

    return run


@pytest.mark.root
@pytest.mark.parametrize("command", ["translate", "pages", "maps"])
def test_hidden_frames_are_null_and_explained_once(command: str, hidden: Callable[..., Outcome]) -> None:
    found = json.loads(hidden(command, "--json").stdout)

    assert {row["phys"] for row in found["rows"]} == {None}
    assert [note for note in texts(found["notes"]) if "CAP_SYS_ADMIN" in note]
    assert len(set(texts(found["notes"]))) == len(found["notes"])


@pytest.mark.root
@pytest.mark.parametrize("command", ["translate", "pages", "maps"])
def test_hidden_frames_are_hidden_in_text(command: str, hidden: Callable[..., Outcome]) -> None:
    outcome = hidden(command)

    assert "hidden" in outcome.stdout
    assert "0x000000000000" not in outcome.stdout
    assert sum("hidden: needs CAP_SYS_ADMIN" in line for line in outcome.stderr.splitlines()) == 1


@pytest.mark.root
@steadily  # others map its libraries meanwhile
def test_amounts_without_rights_are_known_or_null_and_never_wrong(hidden: Callable[..., Outcome]) -> None:
    (smaps,) = rows_of(hidden("usage", "--json", "--source", "smaps").stdout)
    (counted,) = rows_of(hidden("usage", "--json", "--source", "pagemap").stdout)

    assert (counted["pss"], smaps["pss"] is None) == (None, False)
    # Before Linux 6.7 zero pages are shown to those with more rights alone, and what may be one is no sure part of RSS.
    unknown = ("rss", "anon", "thp", "zero") if counted["zero"] is None else ()
    for name in ("rss", "uss", "swap", "anon", "file", "shmem", "hugetlb", "thp", "zero"):
        assert counted[name] == (None if name in unknown else smaps[name]), name
    assert "pss" in hidden("usage", "--verify").stdout


# --- exit codes


@pytest.mark.parametrize("name", [name for name in dir(errors) if isinstance(getattr(errors, name), type)])
def test_every_error_is_a_message_and_its_exit_code(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = getattr(errors, name)
    arguments = {
        "TargetAmbiguous": (
            "x",
            [
                Candidate(pid=1, user="root", rss=4096, command="a"),
                Candidate(pid=2, user="root", rss=None, command=None),
            ],
        ),
        "NoAddressSpace": (2, "k"),
        "TargetRefused": (1, "init", "x"),
        "ProcessGone": (7,),
        "LibraryMissing": ("numpy", ImportError("x")),
    }
    error = kind(*arguments.get(name, ("some words", "more")[: 2 if name == "FormatError" else 1]))

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "dispatch", fail)
    assert cli.main(["usage", "1"]) == kind.exit_code
    out, err = capsys.readouterr()
    assert (out, err.startswith("mematlas: ")) == ("", True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["usag", "1"], "did you mean usage?"),
        (["nonsense"], "no command 'nonsense'"),
        (["usage"], "which process?"),
        (["usage", "self", "more", "--verify"], "unexpected argument 'more' (--verify takes one process)"),
        (["usage", "self", "--format", "xml"], "bad --format 'xml': table, json, jsonl or csv"),
        (["usage", "self", "--nonsense"], "unknown option '--nonsense'"),
        (["maps", "self", "--kind", "heapp"], "no such kind: heapp"),
        (["maps", "self", "--perms", "q"], "bad permissions 'q'"),
        (["map", "self", "--width", "x"], "bad number 'x'"),
        (["hist", "self", "--width", "3"], "3 columns: 40 to 1,000"),
        (["pages", "self", "no such vma"], "has no VMA matching 'no such vma'"),
        (["pages", "self", "0x1000"], "0x1000 is not mapped in "),
        (["usage", "-1"], "'-1' is not a PID or a name"),
        (["usage", "self", "-1"], "'-1' is not a PID or a name"),
        (["pages", "self", "--runs", "--dirty"], "not with --runs"),
        (["translate", "self", "xyz"], "bad address 'xyz'"),
        (["translate", "self", "-5"], "bad address '-5'"),
        (["usage", "self", "-i", "never"], "bad time 'never'"),
        (["usage", "~("], "bad regular expression"),
        (["workload", "nothing"], "no workload 'nothing'"),
        (["workload", "prober", "7"], "unexpected argument '7'"),
        (["completion", "tcsh"], "bad 'tcsh': bash, zsh or fish"),
        (["maps", "self", "--json", "--format", "csv"], "--json is short for --format json: not with --format csv"),
        (["pageout", "4194305", "--format", "table", "--json"], "not with --format table"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_reported_in_one_line(words: list[str], says: str) -> None:
    run = mematlas(*words)

    assert (run.returncode, run.stdout) == (2, "")
    assert says in run.stderr
    assert "Traceback" not in run.stderr


def test_without_numpy_its_installation_is_named() -> None:
    source = str(Path(cli.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-S", "-m", "mematlas", "pages", "self", "stack", "--runs"],
        env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    # Without site a Python does not know that it is one of a virtual environment.
    code = "from mematlas.cli.mistakes import how_to_install; print(how_to_install('numpy'))"
    line = subprocess.check_output(
        [sys.executable, "-S", "-c", code], env={**os.environ, "PYTHONPATH": source}, text=True
    )
    assert line.strip() in (how_to_install("numpy"), "sudo apt install python3-numpy")
    assert (run.returncode, run.stderr) == (5, f"mematlas: numpy is not installed: {line}")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_library_that_cannot_be_loaded_is_named(wrapped: bool, tmp_path: Path) -> None:
    (tmp_path / "_broken.so").write_bytes(b"no library")
    (tmp_path / "numpy.py").write_text(
        "try:\n    import _broken\nexcept ImportError as error:\n    raise ImportError('a page of advice') from error\n"
        if wrapped
        else "import _broken\n"
    )
    run = mematlas("pages", "self", "stack", "--runs", env={"PYTHONPATH": str(tmp_path)})
    line = how_to_install("numpy", again=True)
    assert "reinstall" in line
    assert (run.returncode, run.stdout) == (5, "")
    assert run.stderr == f"mematlas: numpy cannot be loaded: {tmp_path}/_broken.so: file too short: {line}\n"


NO_NUMPY = {
    "missing": "raise ModuleNotFoundError(\"No module named 'numpy'\", name='numpy')",
    "broken": "raise ImportError('advice') from OSError('libopenblas.so.0: cannot open shared object file')",
    "processor": "raise RuntimeError('NumPy was built with baseline optimizations that this machine lacks')",
    "cut short": "def (",
    "mixed": "raise ValueError('numpy.dtype size changed, may indicate binary incompatibility')",
    "somebody's": "import math; math.no_such_function",
    "program": "raise SystemExit(7)",
}


NEED_NUMPY = (
    *("tables self", "tables self 0x1000", "pages self stack --runs", "usage self --folios"),
    *("usage self --if-ended", "hist self --source tables", "pages self stack --source tables"),
)
DO_WITHOUT = (
    *(
        "",
        "doctor",
        "usage self",
        "usage self --distinct",
        "usage self pid:{pid}",
        "maps self",
        "map self",
        "hist self",
        "pages self stack",
    ),
    *("translate self 0x1000", "maps self --numa", "pageout self --dry-run", "lab", "completion bash"),
)


@pytest.mark.parametrize("how", NO_NUMPY)
@pytest.mark.parametrize("line", [*NEED_NUMPY, *DO_WITHOUT])
def test_a_numpy_that_cannot_be_had_is_said_by_those_that_need_it(line: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text(NO_NUMPY[how])
    run = mematlas(*line.format(pid=os.getpid()).split(), env={"PYTHONPATH": str(tmp_path)})

    # Whoever may not read page tables is told so first.
    assert run.returncode in ({0} if line in DO_WITHOUT else {4, 5}), run.stderr
    assert "Traceback" not in run.stderr
    if run.returncode == errors.NotSupported.exit_code:
        assert run.stderr.splitlines()[0].endswith(how_to_install("numpy", again=how != "missing"))


def test_no_room_for_numpy_is_no_traceback() -> None:
    words = [sys.executable, "-m", "mematlas", "pages", "self", "stack", "--runs"]
    # It maps 90 MB, and with Debian's BLAS less; Python itself, 20.
    for size in (50 << 20, 40 << 20, 30 << 20):
        run = subprocess.run(
            words,
            preexec_fn=functools.partial(resource.setrlimit, resource.RLIMIT_AS, (size, size)),
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            break
    assert (run.returncode, run.stdout) == (5, "")
    assert len(run.stderr.splitlines()) == 1
    assert "(ulimit -v" in run.stderr


def test_soft_dirty_pages_are_shown_or_said_to_be_unknown(victim: Start, tmp_path: Path) -> None:
    target = victim("anon_full")
    run = mematlas("pages", target.pid, f"{target['anon_full'].address:#x}", "--soft-dirty", "--json")
    if has_soft_dirty(ProcFS()):
        assert run.returncode == 0, run.stderr
        (page,) = rows_of(run.stdout)
        assert "soft-dirty" in page["flags"]
    else:
        saved = tmp_path / "saved"
        assert mematlas("capture", target.pid, saved).returncode == 0
        for words in ([target.pid], [saved]):
            run = mematlas("pages", *words, "--soft-dirty")
            assert (run.returncode, run.stdout) == (5, "")
            assert "CONFIG_MEM_SOFT_DIRTY" in run.stderr


def test_what_a_capture_lacks_is_not_supported(tmp_path: Path) -> None:
    make_process(tmp_path, maps="10000-20000 rw-p 00000000 00:00 0 \n")
    (tmp_path / "machine.json").write_text(json.dumps({"page_size": 65536, "devices": {"shmem": [], "hugetlb": []}}))

    run = mematlas("pages", tmp_path)
    assert run.returncode == 5
    assert "the capture does not hold" in run.stderr


# --- pages of 64 KiB

BIG = 65536
SMAPS = """\
10000-810000 rw-p 00000000 00:00 0
Rss:    {rss} kB
Pss:    {pss} kB
Private_Clean:  0 kB
Private_Dirty:  {uss} kB
Anonymous:  {rss} kB
Swap:  {swap} kB
"""


@pytest.fixture
def big(tmp_path: Path) -> ProcFS:
    """A machine with pages of 64 KiB: 128 of them, the first 3 present, one of these shared, one swapped."""
    own = 1 << 63 | 1 << 56
    words = {1: own | 0x21, 2: own | 0x22, 3: 1 << 63 | 0x23, 5: 1 << 62 | 9 << 5, 128: 0}
    directory = make_process(tmp_path, maps="10000-810000 rw-p 00000000 00:00 0 \n", words=words)
    (directory / "smaps").write_text(SMAPS.format(rss=3 * 64, pss=2 * 64 + 32, uss=2 * 64, swap=64))
    write_words(tmp_path / "kpagecount", {0x23: 2, 0x30: 0})
    write_words(tmp_path / "kpageflags", {0x21: 1 << 12, 0x23: 1 << 12, 0x30: 0})
    return ProcFS(str(tmp_path), BIG)


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_pages_of_64_kib_are_counted_in_64_kib(source: Source, big: ProcFS) -> None:
    with Process(7, big) as process:
        usage = process.usage(source).usage

    assert (usage.rss, usage.uss, usage.pss) == (3 * BIG, 2 * BIG, 2 * BIG + BIG // 2)
    assert (usage.swap, usage.nr_swapped) == (BIG, 1)
    assert (usage.nr_pages, usage.nr_present, usage.nr_exclusive) == (128, 3, 2)


def test_pages_of_64_kib_are_translated_and_drawn_in_64_kib(big: ProcFS) -> None:
    with Process(7, big) as process:
        first, swapped = process.translate([0x10000 + 0x1234, 0x50000])
        (strip,) = process.grid(cell_pages=1).strips

    assert (first.pfn, first.phys) == (0x21, 0x21 * BIG + 0x1234)
    assert (swapped.state, swapped.swap_offset) == ("swapped", 9)
    assert strip.cells.nr_cells == 128
    assert [strip.cells.classes(cell)["own"] for cell in range(3)] == [1, 1, 0]


LEAK = """
import mmap, sys
areas = []
print(1, flush=True)
for line in sys.stdin:
    area = mmap.mmap(-1, 1021 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(1021):
        area[page * mmap.PAGESIZE] = 1
    areas.append(area)
    print(len(areas), flush=True)
"""


@steadily
def test_what_grows_between_looks_is_said_as_a_number() -> None:
    since = Since()
    changes: list[str] = []
    sizes: list[int] = []
    with program(LEAK) as target, Process(target.pid) as process:
        for _ in range(2):
            result = process.usage("smaps")
            table = usage_table([Subject({"pid": target.pid, "name": "leak"}, result)], Notes(), since=since)
            changes.append(next(line.split()[2] for line in table.lines(in_bytes=True) if line.startswith("USS")))
            sizes.append(result.uss or 0)
            assert target.process.stdin
            assert target.process.stdout
            target.process.stdin.write("grow\n")
            target.process.stdin.flush()
            target.process.stdout.readline()

    assert changes == ["0", str(sizes[1] - sizes[0])]
    assert sizes[1] - sizes[0] >= 1021 * PAGE


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_answers_about_a_running_process_are_json(source: Source) -> None:
    with Process(os.getpid()) as process:
        for result in (process.usage(source), process.maps(source)):
            assert json.loads(json.dumps(result.to_dict())) == result.to_dict()
