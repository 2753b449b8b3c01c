"""pageout, cold, willneed and collapse as commands: what they say, what they leave behind, how they end."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import Outcome
from helpers import sparse, texts
from mematlas.actions.plans import Plan
from mematlas.actions.rooms import SwapRoom
from mematlas.analysis.coldness import RANKS
from mematlas.analysis.movable import Choice
from mematlas.cli import main
from mematlas.cli.act_options import parse_amount
from mematlas.cli.options import parse_bytes
from mematlas.errors import BadInput
from mematlas.kernel.madvise import MADV_WILLNEED
from mematlas.kernel.page_idle import is_multigen
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.swaps import SwapArea, read_swaps, zram_ratio
from mematlas.model.address_space import Selection
from mematlas.observe.process import Process
from mematlas.views.format import format_size
from mematlas.views.plans import room_notes
from mematlas.views.progress import Bar
from victim import DEADLINE, Area, Victim, wait_until

pytestmark = pytest.mark.root("CAP_SYS_NICE", "CAP_SYS_ADMIN")

PAGE = os.sysconf("SC_PAGESIZE")
Capture = pytest.CaptureFixture[str]


def words(command: str, area: Area, *more: str) -> list[str]:
    """Return the command line for one area of a victim."""
    return [command, str(area.pid), f"{area.address:#x}-{area.end:#x}", *more]


def row_of(capsys: Capture) -> dict[str, Any]:
    """Return the one row of the JSON that was written."""
    result = json.loads(capsys.readouterr().out)
    (row,) = result["rows"]
    return {"schema": result["schema"], **row}


def start(*line: str) -> subprocess.Popen[str]:
    """Start the command line beside us."""
    return subprocess.Popen(
        [sys.executable, "-m", "mematlas", *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def our_swaps() -> list[SwapArea]:
    return [area for area in read_swaps(ProcFS()) if "/mematlas-swap-" in area.path]


@pytest.mark.usefixtures("way_back")
def test_result_has_the_promised_keys(victim: Callable[..., Victim], swap: Path, capsys: Capture) -> None:
    area = victim("anon_full")["anon_full"]
    for command, nr_moved in (("pageout", 97), ("willneed", 97), ("cold", 97), ("collapse", 0)):
        assert main(words(command, area, "--json")) == 0
        row = row_of(capsys)
        assert row["schema"] == f"mematlas.{command}/1"
        assert (row["nr_requested"], row["nr_moved"]) == (97, nr_moved)
        assert row["nr_stayed"] == 97 - nr_moved == sum(row["reasons"].values())
        assert {"nr_advised", "passes", "seconds", "swap", "swap_cached", "rate", "refaults", "undo"} <= row.keys()


@pytest.mark.parametrize("more", ["--free", "--undo"])
def test_nothing_is_paged_out_that_the_kernel_could_not_bring_back(
    more: str, victim: Callable[..., Victim], swap: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mematlas.kernel.madvise.takes", lambda advice: advice != MADV_WILLNEED)  # before Linux 5.15
    one = victim("anon_full")
    assert main(words("pageout", one["anon_full"], more)) == 5
    assert "process_madvise(MADV_WILLNEED): not supported here (needs Linux 5.15)" in capsys.readouterr().err
    with one.stopped(), Process(one.pid) as process:
        assert process.usage("smaps").usage.swap == 0


def test_text_says_what_each_number_means(victim: Callable[..., Victim], swap: Path, capsys: Capture) -> None:
    area = victim("zero")["zero"]
    assert main(words("pageout", area, "--bytes")) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("pageout of ")
    assert f", PID {area.pid}: {format_size(7 * PAGE)} in " in first
    assert [line.split()[:3] for line in lines if "swap cache" not in line] == [
        ["MEASURE", "PAGES", "SIZE"],
        ["requested", "36", str(36 * PAGE)],
        ["advised", "7", str(7 * PAGE)],
        ["moved", "7", str(7 * PAGE)],
        ["to", "swap", "7"],
        ["left", "RAM", lines[5].split()[2]],
        ["stayed", "29", str(29 * PAGE)],
        ["zero", "29", str(29 * PAGE)],
    ]
    assert lines[-1].endswith("the zero page, which belongs to no process")


def test_dry_run_says_what_would_move_and_moves_nothing(
    victim: Callable[..., Victim], swap: Path, capsys: Capture
) -> None:
    area = victim("guard")["guard"]
    assert main(words("pageout", area, "--dry-run", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["schema"] == "mematlas.pageout-plan/1"
    (row,) = result["rows"]
    assert (row["nr_requested"], row["nr_movable"], row["nr_needs_swap"]) == (24, 11, 11)
    assert row["reasons"] == {"guard": 13}
    assert any(note.startswith("swap: ") and " free of " in note for note in texts(result["notes"]))
    assert main(words("pageout", area, "--dry-run")) == 0
    out = capsys.readouterr().out
    can, all_of_it, stays = (format_size(number * PAGE) for number in (11, 24, 13))
    assert out.startswith(f"could page out {can} of {all_of_it} selected; {stays} stays: guard\n")
    assert f"{stays} guard" in out
    assert main(words("willneed", area, "--json")) == 0
    assert row_of(capsys)["nr_requested"] == 0


@pytest.fixture
def no_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have our code see no swap space, whatever there is."""
    monkeypatch.setattr("mematlas.actions.rooms.read_swaps", lambda procfs: [])


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["act", "plan"])
def test_without_swap_it_says_so_and_how_to_get_some(
    no_swap: None, victim: Callable[..., Victim], capsys: Capture, more: list[str]
) -> None:
    area = victim("anon_full")["anon_full"]
    assert main(words("pageout", area, *more)) == 0
    err = capsys.readouterr().err
    assert f"note: no swap space: {format_size(97 * PAGE)} of memory without a file has nowhere to go;" in err
    assert "--temporary-swap 64M" in err
    assert "mkswap /var/tmp/swapfile && swapon /var/tmp/swapfile" in err


def test_dry_run_takes_a_temporary_swap_for_given_and_makes_none(
    no_swap: None, victim: Callable[..., Victim], capsys: Capture
) -> None:
    area = victim("anon_full")["anon_full"]
    assert main(words("pageout", area, "--dry-run", "--temporary-swap", "64M", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"][0]["nr_movable"], result["rows"][0]["reasons"]) == (97, {})
    assert not our_swaps()


def test_dry_run_tells_dirty_pages_of_files(
    victim: Callable[..., Victim], capsys: Capture, as_nobody: Callable[..., Outcome]
) -> None:
    one = victim("shared_file", uid=65534)
    area = one["shared_file"]
    one.touch("shared_file", *range(3, 20))
    assert main(words("pageout", area, "--dry-run", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"][0]["nr_dirty"] >= 17
    assert any("dirty: they would leave the process, but stay in RAM" in note for note in texts(result["notes"]))
    result = json.loads(as_nobody(words("pageout", area, "--dry-run", "--json"), caps=["CAP_SYS_NICE"]).stdout)
    assert result["rows"][0]["nr_dirty"] is None
    assert any(note.startswith("dirty pages of files leave the process") for note in texts(result["notes"]))


@pytest.mark.parametrize("command", ["pageout", "cold", "willneed", "collapse"])
@pytest.mark.parametrize("area", ["nosuchlib", "0x7f0000000000+1MB", "0x1000-0x2000"])
def test_area_that_is_nothing_is_refused(
    victim: Callable[..., Victim], capsys: Capture, command: str, area: str
) -> None:
    for more in ([], ["--dry-run"]):
        assert main([command, str(victim().pid), area, *more]) == 2
        assert re.search("has no VMA matching|is not mapped|bad address or range", capsys.readouterr().err)


def test_pages_of_a_file_and_of_none_are_refused(victim: Callable[..., Victim], capsys: Capture) -> None:
    assert main(["pageout", str(victim().pid), "--anon", "--file"]) == 2
    assert "--anon and --file exclude each other" in capsys.readouterr().err


def test_limit_of_rows_is_of_a_dry_run(victim: Callable[..., Victim], capsys: Capture) -> None:
    area = victim("anon_full")["anon_full"]
    assert main(["cold", str(area.pid), "--dry-run", "--limit", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 1
    assert main(words("cold", area, "--limit", "1")) == 2
    assert "--limit needs --dry-run" in capsys.readouterr().err


def test_nothing_to_do_has_a_reason(victim: Callable[..., Victim], swap: Path, capsys: Capture) -> None:
    area = victim("anon_full")["anon_full"]
    assert main(words("pageout", area, "--state", "swapped")) == 0
    assert "the selected VMA has no pages in RAM in state swapped" in capsys.readouterr().err
    assert main(words("willneed", area)) == 0
    assert "the selected VMA has no pages out of RAM" in capsys.readouterr().err


@pytest.mark.usefixtures("way_back")
def test_csv_has_counts_as_json_and_nothing_for_nothing(
    victim: Callable[..., Victim], swap: Path, capsys: Capture
) -> None:
    area = victim("guard")["guard"]
    assert main(words("pageout", area, "--undo", "--format", "csv")) == 0
    keys, values = csv.reader(io.StringIO(capsys.readouterr().out))
    row = dict(zip(keys, values, strict=True))
    assert json.loads(row["reasons"]) == {"guard": 13}
    assert json.loads(row["undo"])["nr_moved"] == 11
    assert row["refaults"] == row["stopped"] == ""


def test_filters_over_vmas_and_pages(victim: Callable[..., Victim], swap: Path, capsys: Capture) -> None:
    one = victim("private_file", "tmpfs")
    name = os.path.basename(one.directory)
    file = one["private_file"]
    for filters, number in (
        ([name, "--perms", "rw"], file.nr_exclusive),
        ([name, "--anon"], file.facts["nr_anon"]),
        ([name, "--file"], file.nr_exclusive - file.facts["nr_anon"]),
        (["--path", "/dev/shm/mematlas-victim", "--kind", "shmem"], one["tmpfs"].nr_present),
        (["--path", "/dev/shm/mematlas-victim", "--anon"], 0),
        ([name, "--state", "swapped,zero"], 0),
    ):
        assert main(["pageout", str(one.pid), *filters, "--dry-run", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert sum(row["nr_movable"] for row in rows) == number


# --- the coldest


def use(area: Area, pages: range) -> None:
    """Have the kernel note an access to each page: reading another's memory counts, as folio_mark_accessed()."""
    with open(f"/proc/{area.pid}/mem", "rb", buffering=0) as memory:
        for page in pages:
            os.pread(memory.fileno(), 1, area.page_address(page))


def test_coldest_pages_go_first(victim: Callable[..., Victim], swap: Path, capsys: Capture) -> None:
    area = victim("anon_full")["anon_full"]
    use(area, range(40, 70))
    if is_multigen():
        assert main(words("pageout", area, "--coldest", "50")) == 5
        assert "the multi-gen LRU does not expose its generations" in capsys.readouterr().err
        return
    assert main(words("pageout", area, "--coldest", "50", "--dry-run", "--json")) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["rows"][0]["nr_movable"] == 50
    assert main(words("pageout", area, "--coldest", "200K", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"][0]["nr_moved"] == 50
    (note,) = (note for note in texts(result["notes"]) if note.startswith("the coldest"))
    assert note.startswith("the coldest 50 of 97 pages, by kpageflags (")
    assert "67 inactive and unreferenced, 30 inactive and referenced" in note
    with Process(area.pid) as process:
        states = [found.state for found in process.translate(map(area.page_address, range(97)))]
    assert [page for page, state in enumerate(states) if state == "swapped"] == [*range(40), *range(70, 80)]


def test_what_its_program_has_not_accessed_goes_before_all_else(
    victim: Callable[..., Victim], swap: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    area = victim("anon_full")["anon_full"]

    def untouched(_: object, vma: object, address: int, states: bytes) -> bytes:
        first = (address - area.address) // area.page_size
        return bytes(60 <= page < 83 for page in range(first, first + len(states)))

    monkeypatch.setattr("mematlas.model.tracked.TrackedMemory.untouched", untouched)
    assert main(words("pageout", area, "--coldest", "23", "--json")) == 0
    (note,) = (note for note in texts(json.loads(capsys.readouterr().out)["notes"]) if note.startswith("the coldest"))
    assert "by what the program tracks itself (userfaultfd RWP), then kpageflags (23 not accessed since" in note
    with Process(area.pid) as process:
        states = [found.state for found in process.translate(map(area.page_address, range(97)))]
    assert [page for page, state in enumerate(states) if state == "swapped"] == [*range(60, 83)]


def test_more_than_there_is_takes_all_and_needs_no_order(victim: Callable[..., Victim], capsys: Capture) -> None:
    area = victim("anon_full")["anon_full"]
    assert main(words("cold", area, "--coldest", "98", "--json")) == 0
    assert row_of(capsys)["nr_requested"] == 97


def test_where_all_pages_look_alike_it_refuses(
    victim: Callable[..., Victim], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = RANKS.index("inactive and unreferenced") + 1
    monkeypatch.setattr("mematlas.actions.coldest.rank_of", lambda word: rank)
    monkeypatch.setattr("mematlas.actions.coldest.is_multigen", lambda: False)
    area = victim("anon_full")["anon_full"]
    assert main(words("pageout", area, "--coldest", "50")) == 5
    err = capsys.readouterr().err
    assert "kpageflags shows all 97 pages as inactive and unreferenced" in err
    assert "CONFIG_IDLE_PAGE_TRACKING" in err


def test_coldest_needs_the_flags_of_frames(victim: Callable[..., Victim], as_nobody: Callable[..., Outcome]) -> None:
    area = victim("anon_full", uid=65534)["anon_full"]
    line = words("cold", area, "--coldest", "50")
    outcome = as_nobody(line, caps=["CAP_SYS_NICE"])
    assert outcome.code == 4
    assert "kpageflags" in outcome.stderr
    outcome = as_nobody(line, caps=["CAP_SYS_NICE", "CAP_DAC_READ_SEARCH"])
    assert outcome.code == 4
    assert "CAP_SYS_ADMIN for frame numbers" in outcome.stderr


@pytest.mark.parametrize("text", ["", "some", "0", "-4K"])
def test_bad_amount_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_amount(text)


@pytest.mark.usefixtures("way_back")
def test_refaults_and_undo_are_part_of_the_result(victim: Callable[..., Victim], swap: Path, capsys: Capture) -> None:
    area = victim("anon_full")["anon_full"]
    assert main(words("pageout", area, "--watch-refaults", "50ms", "--undo", "--json")) == 0
    row = row_of(capsys)
    assert row["refaults"]["nr_never"] == row["refaults"]["nr_moved"] == 97
    assert row["refaults"]["never"] == [[f"{area.address:#x}", f"{area.end:#x}"]]
    assert row["undo"]["nr_moved"] == 97
    assert main(words("pageout", area, "--watch-refaults", "50ms", "--undo")) == 0
    out = capsys.readouterr().out
    assert "0 of 97 pages came back (0.0%)" in out
    assert re.search(rf"97 did not come back in [\d.]+ s: {format_size(97 * PAGE)} of cold memory", out)
    assert f"undo: 97 of 97 pages ({format_size(97 * PAGE)}) brought back in " in out


@pytest.mark.usefixtures("way_back")
def test_freeing_has_a_line_of_its_own(victim: Callable[..., Victim], swap: Path, capsys: Capture) -> None:
    area = victim("anon_full")["anon_full"]
    assert main(words("pageout", area, "--free", "--json")) == 0
    row = row_of(capsys)
    assert (row["nr_moved"], row["nr_freed"], row["swap_cached"]) == (97, 97, 0)
    assert row["free"].keys() == {"nr_kept", "nr_freed"}
    assert main(["willneed", *words("", area)[1:]]) == 0
    capsys.readouterr()
    assert main(words("pageout", area, "--free")) == 0
    out = capsys.readouterr().out
    assert f"left RAM 97 {format_size(97 * PAGE)} of these, out of RAM too: their frames are free" in " ".join(
        out.split()
    )
    assert "  by --free" in out


@pytest.mark.parametrize("pid", [1, os.getpid()], ids=["init", "self"])
def test_dangerous_targets_are_refused(pid: int, capsys: Capture) -> None:
    assert main(["pageout", str(pid), "0x1000"]) == 1
    assert "; use --force to act on it anyway" in capsys.readouterr().err


def test_we_are_refused_where_proc_counts_otherwise_too() -> None:
    line = ["unshare", "--pid", "--fork", sys.executable, "-m", "mematlas", "cold", "self"]
    try:
        run = subprocess.run(line, capture_output=True, text=True, timeout=DEADLINE)
    except FileNotFoundError:
        pytest.skip("needs unshare(1)")
    if "unshare:" in run.stderr:
        pytest.skip(f"no PID namespace here: {run.stderr}")
    assert run.returncode == 1
    assert "is ourselves" in run.stderr


def test_our_shell_is_refused(capsys: Capture) -> None:
    assert main(["cold", str(os.getppid()), "0x1000"]) == 1
    assert "one of our own ancestors" in capsys.readouterr().err


def test_force_does_what_was_refused(capsys: Capture) -> None:
    # No advice is taken there, so nothing happens to us.
    assert main(["cold", "self", "vdso", "--force", "--json"]) == 0
    assert row_of(capsys)["nr_advised"] == 0


def test_kernel_thread_has_nothing_to_page_out(capsys: Capture) -> None:
    assert main(["pageout", "2", "--force"]) == 3
    assert "kernel thread" in capsys.readouterr().err


def test_missing_right_is_named_with_the_line_to_type(
    victim: Callable[..., Victim], as_nobody: Callable[..., Outcome]
) -> None:
    area = victim("anon_full", uid=65534)["anon_full"]
    outcome = as_nobody(words("cold", area))
    assert outcome.code == 4
    assert "needs CAP_SYS_NICE" in outcome.stderr
    assert f"mematlas cold {area.pid}" in outcome.stderr.splitlines()[-1]
    assert "try: sudo -- " in outcome.stderr
    assert as_nobody(words("cold", area), caps=["CAP_SYS_NICE"]).code == 0


def test_process_that_ended_is_exit_code_3_or_6(victim: Callable[..., Victim], capsys: Capture) -> None:
    one = victim("anon_full")
    area = one["anon_full"]
    one.exit()
    assert main(words("pageout", area)) in (3, 6)
    capsys.readouterr()


@pytest.fixture
def while_watching(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something happen between the first look at refaults and the second."""

    def arrange(happen: Callable[[], object]) -> None:
        pauses = iter([happen])

        def pause(seconds: float) -> None:
            next(pauses, lambda: time.sleep(seconds))()

        clock = SimpleNamespace(monotonic=time.monotonic, sleep=pause)
        monkeypatch.setattr("mematlas.actions.refaults.time", clock)

    return arrange


@pytest.mark.usefixtures("way_back")
def test_process_that_ends_while_it_is_watched_is_reported(
    victim: Callable[..., Victim], swap: Path, while_watching: Callable[..., None], capsys: Capture
) -> None:
    one = victim("anon_full")
    while_watching(one.exit)
    assert main(words("pageout", one["anon_full"], "--watch-refaults", "60s", "--undo")) == 6
    out = capsys.readouterr().out
    assert "97" in out
    assert f"process {one.pid} ended" in out
    assert "97 were freed when the process ended" in out
    assert "cold" not in out


@pytest.mark.machine
@pytest.mark.usefixtures("way_back")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_it_with_the_report_and_without_the_swap(
    victim: Callable[..., Victim], number: signal.Signals, while_watching: Callable[..., None], capsys: Capture
) -> None:
    area = victim("anon_full")["anon_full"]
    seen: list[SwapArea] = []

    def interrupt() -> None:
        seen.extend(our_swaps())
        os.kill(os.getpid(), number)

    while_watching(interrupt)
    line = words("pageout", area, "--temporary-swap", "16M", "--watch-refaults", "60s", "--undo")
    assert main(line) == 128 + number
    assert seen
    out, err = capsys.readouterr()
    assert "interrupted" in out
    assert "97 did not come back in " in out
    assert "cold" not in out
    assert "brought back" in out
    assert "not back" not in out
    assert "being removed" in err
    assert not our_swaps()


INTERRUPTED = """
import json, os, signal, sys
nr_signals, sys.path[:], *words = json.loads(sys.argv[1])
from mematlas.cli import main
read, reads = os.pread, []
def pread(fd, size, offset):
    reads.append(size)
    if reads.count(1) == 300 and size == 1:
        for _ in range(nr_signals):
            os.kill(os.getpid(), signal.SIGINT)
    return read(fd, size, offset)
os.pread = pread
sys.exit(main(words))
"""
"""Signals come in the middle of bringing pages back, which is reading a byte of each."""


@pytest.mark.parametrize(
    ("nr_signals", "told"), [(1, "stopped: interrupted"), (2, "anything after the last step shown is unknown")]
)
@pytest.mark.usefixtures("way_back")
def test_undo_that_is_interrupted_leaves_the_report(swap: Path, nr_signals: int, told: str) -> None:
    with sparse(1024 * PAGE, range(1009)) as running:
        line = ["pageout", str(running.pid), f"{running.told:#x}+{1024 * PAGE}", "--undo"]
        argument = json.dumps([nr_signals, sys.path, *line])
        words = [sys.executable, "-c", INTERRUPTED, argument]
        run = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE)
    assert run.returncode == 130
    assert re.search(r"moved +1009 ", run.stdout)
    assert told in run.stdout + run.stderr


CUT_SHORT = """
import json, os, signal, sys
sys.path[:], *words = json.loads(sys.argv[1])
from mematlas.actions.acts import Act
from mematlas.cli import main
advise, calls = Act._advise, []
def interrupted(*arguments):
    calls.append(advise(*arguments))
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    return calls[-1]
Act._advise = interrupted
sys.exit(main(words))
"""


@pytest.mark.machine
def test_second_signal_in_an_act_says_how_far_it_was_and_leaves_no_swap() -> None:
    size = (64 << 8) * PAGE
    with sparse(size, range(0, 64 << 8, 2)) as running:
        line = ["pageout", str(running.pid), f"{running.told:#x}+{size}", "--temporary-swap", str(size)]
        words = [sys.executable, "-c", CUT_SHORT, json.dumps([sys.path, *line])]
        run = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE)
    assert (run.returncode, run.stdout) == (130, "")
    (line_told,) = [line for line in run.stderr.splitlines() if "interrupted in the middle" in line]
    assert int(re.sub(",", "", re.search(r": ([\d,]+) pages", line_told)[1])) > 0  # type: ignore[index]
    assert not our_swaps()


@pytest.mark.machine
def test_killing_it_takes_the_swap_away_too(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    running = start(*words("pageout", one["anon_full"], "--temporary-swap", "16M", "--watch-refaults", "60s"))
    wait_until(lambda: bool(our_swaps()), "there is swap")
    directory = os.path.dirname(our_swaps()[0].path)
    running.kill()
    running.communicate(timeout=DEADLINE)
    wait_until(lambda: not os.path.exists(directory), "the swap file is gone")
    assert not our_swaps()


def test_command_of_our_own_can_be_the_target(swap: Path) -> None:
    # On an emulated processor Python alone takes seconds to start.
    seconds = 8.0 if "MEMATLAS_GUEST" in os.environ else 0.5
    code = f"import time; kept = bytearray(b'x') * (4 << 20); time.sleep({2 * seconds})"
    running = start("pageout", "--after", f"{seconds}s", "--json", "--", sys.executable, "-c", code)
    out, _ = running.communicate(timeout=DEADLINE)
    assert running.returncode == 0
    assert json.loads(out)["rows"][0]["nr_moved"] >= (4 << 20) // PAGE


@pytest.mark.parametrize("command", ["pageout", "cold", "willneed", "collapse"])
def test_help_names_the_rights(command: str, capsys: Capture) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "CAP_SYS_NICE" in out
    assert "--dry-run" in out


@pytest.mark.parametrize("text", ["", "lots", "0", "-4K"])
def test_bad_size_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_bytes(text)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_grows_on_a_terminal_and_is_taken_away() -> None:
    out = Terminal()
    with Bar(out, "pageout") as bar:
        bar(1, 4)
        assert "pageout [#######.......................]  25%" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[K")


def test_no_bar_elsewhere() -> None:
    out = io.StringIO()
    with Bar(out, "pageout") as bar:
        bar(1, 2)
    assert out.getvalue() == ""


def test_only_zram_has_a_ratio() -> None:
    assert zram_ratio("/var/tmp/swapfile") is None
    assert zram_ratio("/dev/zram99999") is None


@pytest.mark.parametrize(("used", "told"), [(8 << 20, ", 61:1 so far"), (8 << 10, "")])
def test_ratio_is_said_once_there_is_something_in_it(used: int, told: str) -> None:
    area = SwapArea(path="/dev/zram0", kind="partition", size=64 << 20, used=used, priority=100)
    room = SwapRoom((area,), {area.path: 61.3}, None)
    planned = Plan("pageout", Selection(), Choice(), None, (), PAGE, room, ())
    (line,) = room_notes(planned)
    assert line.text.endswith(f" free of {format_size(64 << 20)}{told}")
