"""Moments of a recording: every command answers from them as it does from a capture that was made then."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome
from helpers import PAGE, mematlas, program
from mematlas import Process
from mematlas.kernel.pagemap import Block
from mematlas.kernel.procfs import ProcFS
from mematlas.timeline import watch as module
from mematlas.timeline.encoding import MOST_DELTAS, Encoder
from mematlas.timeline.recorder import facts_of
from mematlas.timeline.recording import Recording
from mematlas.timeline.sampler import Cost, Snapshot
from mematlas.timeline.watch import Watch
from mematlas.timeline.words import Followed
from mematlas.timeline.writing import RecordingWriter
from victim import Victim, process_state, standing_still

COMMANDS = (
    *("usage", "maps", "maps --by owner", "maps --by kind", "map", "pages", "pages --runs", "hist", "ps"),
    *("usage --if-ended", "usage --distinct", "usage --verify", "translate 0x1000", "maps --numa"),
)
BY_OTHERS = ("pss", "pss_low", "pss_high", "count", "frame_flags", "phys_flags")
"""What others change, who map the same files: the commands themselves are among them."""
FAST = ("-i", "100ms", "--budget", "100%")


def answer(*words: object) -> Any:
    run = mematlas(*words, "--json")
    assert run.returncode in (0, 10), run.stderr
    return json.loads(run.stdout)


def rows_of(result: Any) -> list[dict[str, Any]]:
    left_out = {"source", "duration_s", *BY_OTHERS}
    return [{key: value for key, value in row.items() if key not in left_out} for row in result["rows"]]


@pytest.fixture(scope="module")
def stopped() -> Iterator[Victim]:
    with Victim("anon_full", "anon", "shared_anon") as one, contextlib.ExitStack() as stack:
        stack.enter_context(standing_still(one.pid))
        # Whoever runs Python meanwhile maps pages of its files: we map all of them, so that it has none for itself.
        for path in {item.vma.path for item in Process(one.pid).maps().vmas if item.vma.kind == "file"}:
            with open(path, "rb") as file:
                area = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
            stack.callback(area.close)
        yield one


@pytest.fixture(scope="module")
def saved(stopped: Victim, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A capture of it, and the last moment of a recording with all that can be recorded."""
    path = tmp_path_factory.mktemp("moments")
    assert mematlas("capture", stopped.pid, path / "saved").returncode == 0
    run = mematlas("record", stopped.pid, "-o", path / "x.mematlas", "--what", "frames", "-d", "2s", *FAST)
    assert run.returncode == 0, run.stderr
    database = sqlite3.connect(path / "x.mematlas")
    nr_moments, last = database.execute("SELECT count(*), max(elapsed) FROM moment").fetchone()
    database.close()
    assert nr_moments > 1
    return path / "saved", f"{path}/x.mematlas@{last:.6f}"


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_moment_is_what_a_capture_is(command: str, saved: tuple[Path, str]) -> None:
    capture, moment = saved
    name, *words = command.split()
    of_capture, of_moment = answer(name, capture, *words), answer(name, moment, *words)

    if "--verify" in words:  # of both the reasons may differ, where a rounding is all there is
        assert [row["explained"] for row in of_moment["rows"]] == [row["explained"] for row in of_capture["rows"]]
        return
    assert rows_of(of_moment) == rows_of(of_capture)
    assert rows_of(of_moment)


def test_amounts_are_those_that_were_counted(stopped: Victim, tmp_path: Path) -> None:
    path = tmp_path / "x.mematlas"
    assert mematlas("record", stopped.pid, "-o", path, "-d", "100ms", *FAST).returncode == 0
    (row,) = answer("usage", f"{path}@0s")["rows"]
    rows = {int(row["start"], 16): row for row in answer("maps", f"{path}@0s:{stopped.pid}")["rows"]}
    database = sqlite3.connect(path)
    rss, uss, tables = database.execute("SELECT rss, uss, tables FROM usage WHERE moment = 1").fetchone()
    database.close()

    assert (row["rss"], row["uss"], row["tables"]) == (rss, uss, tables)
    full, half = stopped["anon_full"], stopped["anon"]
    assert [rows[area.address]["rss"] for area in (full, half)] == [full.size, half.states.count("present") * PAGE]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["pages"], "single pages are not recorded (record --what pages)"),
        (["map"], "single pages are not recorded (record --what pages)"),
        (["tables"], "record --what tables"),
        (["maps", "--source", "pagemap"], "record --what pages"),
    ],
)
def test_what_was_not_recorded_is_said_with_the_option_that_does(
    words: list[str], text: str, stopped: Victim, tmp_path: Path
) -> None:
    path = tmp_path / "x.mematlas"
    assert mematlas("record", stopped.pid, "-o", path, "-d", "100ms", *FAST).returncode == 0
    run = mematlas(words[0], f"{path}@0s", *words[1:])
    assert (run.returncode, run.stdout) == (5, "")
    assert text in run.stderr


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("words", [["usage", "--source", "smaps"], ["usage", "--verify"]])
def test_what_was_counted_by_something_else_is_not_shown_as_of_smaps(
    words: list[str], stopped: Victim, tmp_path: Path
) -> None:
    path = tmp_path / "x.mematlas"
    more = ("--what", "pages", "--source", "pagemap")
    assert mematlas("record", stopped.pid, "-o", path, "-d", "100ms", *more, *FAST).returncode == 0
    run = mematlas(words[0], f"{path}@0s", *words[1:])
    assert (run.returncode, run.stdout) == (5, "")
    assert "record --source smaps: pagemap was read" in run.stderr
    assert answer("usage", f"{path}@0s")["target"]["source"] == "pagemap"


@pytest.fixture(scope="module")
def sums(stopped: Victim, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of the process's amounts alone."""
    path = tmp_path_factory.mktemp("sums") / "x.mematlas"
    assert mematlas("record", stopped.pid, "-o", path, "-d", "100ms", "--what", "usage", *FAST).returncode == 0
    return path


def test_of_a_recording_of_amounts_alone_vmas_are_asked_for_in_vain(sums: Path) -> None:
    run = mematlas("maps", f"{sums}@0s")
    assert (run.returncode, "record --what vmas" in run.stderr) == (5, True)


def test_amounts_alone_are_those_that_smaps_adds_up_to(stopped: Victim, sums: Path) -> None:
    (found,), (now,) = (answer("usage", target)["rows"] for target in (f"{sums}@end", stopped.pid))
    assert found["source"] == "smaps_rollup"
    unknown = {name for name, amount in found.items() if amount is None}
    assert unknown - {name for name, amount in now.items() if amount is None} == {"zero", "nr_vmas"}
    told = found.keys() - {*unknown, "source", "pss", "uss", "swap_pss"}
    assert {name: found[name] for name in told} == {name: now[name] for name in told}
    # Of a file that others map too, these are as others map it; smaps rounds each VMA down to a KiB.
    assert found["pss"] == pytest.approx(now["pss"], abs=now["nr_vmas"] * 1024 + 64 * PAGE)


def test_processes_are_listed_by_amounts_alone(sums: Path, stopped: Victim) -> None:
    (row,), (usage,) = (answer(command, f"{sums}@0s")["rows"] for command in ("ps", "usage"))
    assert row["pid"] == stopped.pid
    assert {key: row[key] for key in ("rss", "uss", "swap")} == {key: usage[key] for key in ("rss", "uss", "swap")}


@pytest.fixture(scope="module")
def machine(stopped: Victim, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A recording of the machine, and what its RAM was used for meanwhile."""
    path = tmp_path_factory.mktemp("machine") / "x.mematlas"
    run = mematlas("record", "--machine", "--what", "ram", "-o", path, "-d", "300ms", *FAST)
    assert run.returncode == 0, run.stderr
    return path, answer("ram")


def test_a_machine_has_all_processes_that_have_memory(machine: tuple[Path, Any], stopped: Victim) -> None:
    rows = answer("ps", f"{machine[0]}@0s")["rows"]
    there = {row["pid"]: row["rss"] for row in rows}
    assert there[stopped.pid] == answer("usage", stopped.pid)["rows"][0]["rss"]
    assert os.getpid() in there
    # Who has ended since is gone, or a zombie where nobody waits for it.
    others = [pid for pid in there if not os.path.exists(f"/proc/{pid}/exe") and os.path.exists(f"/proc/{pid}")]
    assert not [pid for pid in others if process_state(pid) != "Z"]


def test_frames_of_a_moment_are_those_of_the_machine(machine: tuple[Path, Any]) -> None:
    path, now = machine
    then = answer("ram", f"{path}@end")
    sizes = {row["kind"]: row["size"] for row in then["rows"]}
    assert sum(sizes.values()) == then["total"]["size"] == now["total"]["size"]
    (free,) = [row["size"] for row in now["rows"] if row["kind"] == "free"]
    assert sizes["free"] == pytest.approx(free, rel=0.2)
    assert sizes["reserved"] in [row["size"] for row in now["rows"]]


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("what", ["tables", "tables,pages"])
def test_page_tables_of_a_moment_are_those_of_then(what: str, stopped: Victim, tmp_path: Path) -> None:
    now = mematlas("tables", stopped.pid, "--json")
    if now.returncode == 5:
        pytest.skip("page tables cannot be read")
    path = tmp_path / "x.mematlas"
    run = mematlas("record", stopped.pid, "--what", what, "-o", path, "-d", "200ms", *FAST)
    assert run.returncode == 0, run.stderr
    then, expected = answer("tables", f"{path}@end"), json.loads(now.stdout)
    for row in (*then["rows"], *expected["rows"]):
        del row["nr_accessed"]  # the kernel ages pages meanwhile
    assert then["rows"] == expected["rows"]
    for key in ("paging", "reserve", "others", "table_bytes_per_mib", "nr_hidden"):
        assert then["target"][key] == expected["target"][key]
    assert (then["target"]["pgd"], expected["target"]["pgd"][:2]) == (None, "0x")
    text = mematlas("tables", f"{path}@end").stdout
    assert text.startswith(f"{then['target']['name']}, PID {stopped.pid}: {then['target']['paging']}, user half, read")
    assert answer("usage", f"{path}@end")["rows"][0]["rss"] == answer("usage", stopped.pid)["rows"][0]["rss"]


@pytest.mark.root
def test_who_may_not_read_page_tables_is_told_at_once(as_nobody: Callable[..., Outcome]) -> None:
    outcome = as_nobody(["record", "self", "--what", "tables", "-o", "x.mematlas", "-d", "0"])
    assert outcome.code in (4, 5), outcome.stderr
    assert "CAP_BPF" in outcome.stderr or "page tables" in outcome.stderr


@pytest.mark.root("CAP_SYS_ADMIN")
def test_files_of_a_moment_are_those_of_the_page_cache(tmp_path: Path) -> None:
    file, path = tmp_path / "a file\nwith a line", tmp_path / "x.mematlas"
    size = 20_011 * PAGE
    file.write_bytes(b"x" * size)
    with program("import time\nprint(0, flush=True)\ntime.sleep(1000)") as one:
        run = mematlas("record", one.pid, "--what", "usage,files", "-o", path, "-d", "200ms", *FAST)
    assert run.returncode == 0, run.stderr
    then, now = (answer("cache", *words, "--limit", 100) for words in ((f"{path}@0s",), ()))
    (row,) = [row for row in then["rows"] if row["path"] == str(file)]
    (same,) = [row for row in now["rows"] if row["path"] == str(file)]
    known = ("size", "resident", "mapped", "dev", "inode", "fs")
    assert {key: row[key] for key in known} == {key: same[key] for key in known}
    assert row["resident"] == size
    assert then["total"]["resident"] == pytest.approx(now["total"]["resident"], rel=0.2)
    assert mematlas("ram", f"{path}@0s").returncode == 5
    assert str(tmp_path / "a file\\nwith a line") in mematlas("cache", f"{path}@0s", "--limit", 100).stdout


def test_names_of_files_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.mematlas"
    with program("import time\nprint(0, flush=True)\ntime.sleep(1000)") as one:
        run = mematlas("record", one.pid, "--what", "files", "--redact", "-o", path, "-d", "0", *FAST)
    assert run.returncode == 0, run.stderr
    names = [row["path"] for row in answer("cache", f"{path}@0s", "--limit", 100)["rows"] if row["path"]]
    assert names
    assert [name for name in names if "redacted" not in name] == []


def test_counters_of_the_machine_count_what_happens(tmp_path: Path) -> None:
    path = tmp_path / "x.mematlas"
    nr_pages = 5003
    touching = f"import mmap\nm = mmap.mmap(-1, {nr_pages * PAGE}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
    touching += f"m.madvise(mmap.MADV_NOHUGEPAGE)\nfor at in range(0, len(m), {PAGE}): m[at] = 1"
    run = mematlas("record", "-o", path, *FAST, "--", "python3", "-c", f"import time\ntime.sleep(0.5)\n{touching}")
    assert run.returncode == 0, run.stderr
    rows = {row["name"]: row for row in answer("report", path, "machine")["rows"]}
    assert rows["pgfault"]["change"] >= nr_pages
    assert rows["MemTotal"]["change"] == 0
    with open("/proc/meminfo") as file:
        assert rows["MemTotal"]["last"] == int(file.readline().split()[1]) * 1024


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("ram", "{}@0s", "--by", "zone"), 2, "by kind"),
        (("ram", "{}@0s", "--list"), 2, "--list"),
        (("ram", "{}@0s", "{}@0s"), 2, "unexpected argument"),
        (("ram", "everything"), 2, "no moment"),
        (("ram", "{}@0s"), 5, "record --what ram"),
        (("cache", "{}@0s"), 5, "record --what files"),
        (("cache", "{}@0s", "--by", "cgroup"), 2, "not who is charged"),
        (("cache", "{}@0s", "--sort", "dirty"), 2, "the largest in RAM"),
        (("cache", "{}@99s"), 3, "outside"),
        (("ram", "{}@99s"), 3, "outside"),
        (("tables", "{}@0s"), 5, "record --what tables"),
    ],
)
def test_what_a_recording_does_not_tell_of_ram_is_refused(
    words: tuple[str, ...], code: int, text: str, sums: Path
) -> None:
    run = mematlas(*(word.format(sums) for word in words))
    assert (run.returncode, run.stdout) == (code, "")
    assert text in run.stderr


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[Path, list[int]]]:
    """A recording of two processes of which one ends after a second."""
    path = tmp_path / "x.mematlas"
    with program("import time\nprint(0, flush=True)\ntime.sleep(1000)") as one:
        with program("import time\nprint(0, flush=True)\ntime.sleep(1)") as two:
            run = mematlas("record", one.pid, two.pid, "-o", path, "-d", "2s", *FAST)
        assert run.returncode == 0, run.stderr
        yield path, [one.pid, two.pid]


def test_a_moment_has_the_processes_that_there_were(family: tuple[Path, list[int]]) -> None:
    path, pids = family

    assert sorted(row["pid"] for row in answer("ps", f"{path}@100ms")["rows"]) == sorted(pids)
    assert [row["pid"] for row in answer("usage", f"{path}@100ms")["rows"]] == sorted(pids)
    assert [row["pid"] for row in answer("ps", f"{path}@1.9s")["rows"]] == pids[:1]
    assert answer("usage", f"{path}@100ms:{pids[1]}")["target"]["pid"] == pids[1]
    several = mematlas("maps", f"{path}@100ms")
    assert (several.returncode, f"{path}@100ms:{min(pids)}" in several.stderr) == (3, True)
    gone = mematlas("maps", f"{path}@1.9s:{pids[1]}")
    assert (gone.returncode, f"has no process {pids[1]} at 1.9 s" in gone.stderr) == (3, True)
    assert f"the last moment of that is @end:{pids[1]}" in gone.stderr
    never = mematlas("maps", f"{path}@end:1")
    assert (never.returncode, f"has no process 1: mematlas report {path}" in never.stderr) == (3, True)


def test_the_end_of_a_process_that_has_ended_is_its_last_moment(family: tuple[Path, list[int]]) -> None:
    path, pids = family
    last = answer("usage", f"{path}@end:{pids[1]}")

    assert last["target"]["pid"] == pids[1]
    assert last["rows"][0]["rss"] > 0
    assert [row["pid"] for row in answer("ps", f"{path}@end")["rows"]] == pids[:1]


def test_the_end_of_a_program_that_has_ended_is_the_last_moment_with_a_process(tmp_path: Path) -> None:
    path = tmp_path / "x.mematlas"
    run = mematlas("record", "-o", path, *FAST, "--", sys.executable, "-c", "import time; time.sleep(1)")
    assert run.returncode == 0, run.stderr

    assert answer("usage", f"{path}@end")["rows"][0]["rss"] > 0


@pytest.mark.parametrize(
    ("at", "code", "text"), [("@9s", 3, "9 s is outside"), ("@x", 2, "is no moment"), ("@1y", 2, "bad time '1y'")]
)
def test_a_time_that_is_none_is_refused(at: str, code: int, text: str, family: tuple[Path, list[int]]) -> None:
    run = mematlas("usage", f"{family[0]}{at}")
    assert run.returncode == code, run.stderr
    assert text in run.stderr


def test_what_is_no_recording_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "x.mematlas"
    path.write_bytes(b"SQLite format 3\0" + bytes(4000))
    run = mematlas("usage", f"{path}@1s", env={**os.environ, "TMPDIR": str(tmp_path)})
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["x.mematlas"]
    assert mematlas("usage", tmp_path / "nothing.mematlas@1s").returncode == 3


def test_a_bound_on_memory_is_not_raised_by_who_reads_a_moment(saved: tuple[Path, str]) -> None:
    most = 3 << 30
    code = "import resource\nfrom mematlas.cli import main\nfrom mematlas.timeline.unpacking import bound_memory\n"
    code += f"resource.setrlimit(resource.RLIMIT_AS, ({most}, {most}))\nbound_memory()\n"
    code += (
        f"assert resource.getrlimit(resource.RLIMIT_AS) == ({most}, {most})\nmain(['usage', {saved[1]!r}, '--json'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, "Traceback" in run.stderr) == (0, False), run.stderr
    assert json.loads(run.stdout)["rows"]


def test_what_is_wrong_with_a_moment_is_said_of_it_as_it_was_named(saved: tuple[Path, str], tmp_path: Path) -> None:
    moment = saved[1]
    captured = mematlas("capture", moment, tmp_path / "new")
    assert (captured.returncode, f"{moment} is no process that runs" in captured.stderr) == (2, True)

    # Two VMAs in one place are found out about where maps is read.
    path = tmp_path / "hostile.mematlas"
    path.write_bytes(Path(moment.rpartition("@")[0]).read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        (end,) = database.execute('SELECT max("end") FROM vma WHERE start > 0').fetchone()
        database.execute('UPDATE vma SET "end" = ? WHERE start = (SELECT min(start) FROM vma WHERE start > 0)', (end,))
    refused = mematlas("maps", f"{path}@0s")
    assert refused.returncode == 1, refused.stderr
    assert "expected ranges of pages in ascending order" in refused.stderr
    assert f"{path}@0s/" in refused.stderr
    assert "mematlas-" not in refused.stderr


@pytest.mark.parametrize("command", ["record", "pageout", "cold", "willneed", "collapse"])
def test_what_is_over_is_neither_recorded_nor_acted_on(command: str, saved: tuple[Path, str], tmp_path: Path) -> None:
    words = ("-o", tmp_path / "new.mematlas", "-d", "1s") if command == "record" else ()
    for target, what in ((saved[1], "a moment of a recording"), (saved[0], "a capture")):
        run = mematlas(command, target, *words)
        assert (run.returncode, run.stdout) == (2, "")
        assert f"{target} is {what}: {command} " in run.stderr
        assert "processes that run" in run.stderr
    assert list(tmp_path.iterdir()) == []
    if command == "record":
        assert mematlas(command, "self", saved[1], *words).returncode == 2
    elif command != "collapse":  # what that could do is not known of anything that is over
        assert mematlas(command, saved[1], "--dry-run").returncode == 0


def test_where_no_descriptor_is_left_no_file_is_named_that_is_not_there() -> None:
    code = "import os, resource\nfrom mematlas.kernel.procfs import ProcFS\n"
    code += "fd = os.dup(0)\nresource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1, fd + 1))\nos.close(fd)\nProcFS()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "/proc: Too many open files" in run.stderr
    assert "machine.json" not in run.stderr.splitlines()[-1]


def test_a_name_with_a_moment_of_no_file_is_a_name() -> None:
    run = mematlas("usage", "nothing-is-called-so@1s")
    assert (run.returncode, "nothing-is-called-so@1s" in run.stderr) == (3, True)


CHANGING = """
import mmap, sys
P = mmap.PAGESIZE
area = mmap.mmap(-1, 997 * P, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
print(0, flush=True)
for step in map(int, sys.stdin):
    for page in range(step, 997, 7 + step):
        area[page * P] = 1
    area.madvise(mmap.MADV_DONTNEED, 31 * step * P, 13 * P)
    print(step, flush=True)
"""


def entries_of(pid: int) -> dict[int, int]:
    """Return the entries of a process that hold something, by the numbers of their pages."""
    with Process(pid) as process:
        found: dict[int, int] = {}
        for _, piece in process.pages():
            if isinstance(piece, Block):
                first = piece.address // PAGE
                found |= {first + index: entry for index, entry in enumerate(piece.entries) if entry}
        return found


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("is_followed", [False, True])
def test_what_is_put_together_from_changes_is_what_was_there(
    is_followed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that writes to other pages at each step, and gives some back."""
    monkeypatch.setattr(module, "MANY_PAGES", 0 if is_followed else 1 << 40)
    path = str(tmp_path / "x.mematlas")
    expected = []
    with program(CHANGING, wait="") as running, Watch([str(running.pid)], ProcFS(), what=["frames"]) as watch:
        encoder = Encoder()
        with RecordingWriter(path, facts_of(watch, 1.0)) as writer:
            for step in range(MOST_DELTAS + 5):
                assert running.process.stdin
                assert running.process.stdout
                running.process.stdin.write(f"{step % 23}\n")
                running.process.stdin.flush()
                running.process.stdout.readline()
                with standing_still(running.pid):  # what it does after a line takes pages too
                    expected.append(entries_of(running.pid))
                    look = watch.look()
                files = look.seen[0].files
                assert files
                if is_followed and not isinstance(files.words["pagemap"], Followed):
                    pytest.skip("page tables cannot be read")
                writer.add(encoder.rows_of(Snapshot(1e9, float(step), look, Cost(0.0, 0.0))))
    with Recording(path) as recording:
        (process,) = recording.processes()
        for step, entries in enumerate(expected):
            words = recording.words_at(process, "pagemap", step + 1)
            assert words
            found = dict(zip(words.indexes.tolist(), words.words.tolist(), strict=True))
            kept = (1 << 55) - 1 | 1 << 63  # frames, and whether they are present: the marks in between are ours
            assert {page: entry & kept for page, entry in found.items() if entry >> 63} == {
                page: entry & kept for page, entry in entries.items() if entry >> 63
            }
    rows = sqlite3.connect(path).execute("SELECT count(*) FROM file WHERE name = 'pagemap' AND base IS NULL").fetchone()
    assert rows == (2,)
