"""Amounts that the kernel tells: what the program has done, in every source or unknown with a reason."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amounts import LAZY, PARTIAL, PINNED, SMALL_FOLIOS, UNPINNED
from conftest import locked
from helpers import PAGE, look, mematlas, program, read_smaps, skip_without_tables, steadily, texts
from mematlas import Process
from mematlas.kernel.kpage import KPF_ANON, KPF_COMPOUND_TAIL, KPF_MMAP
from mematlas.kernel.madvise import drain_batches
from mematlas.observe.sources import SOURCES
from mematlas.views.format import format_size
from victim import Victim

pytestmark = pytest.mark.root("CAP_SYS_ADMIN")
Start = Callable[..., Victim]
HUGE = PAGE * (PAGE // 8)
MTHP = 16 * PAGE


@pytest.fixture(autouse=True)
def tables_where_they_can_be_read(request: pytest.FixtureRequest) -> None:
    if "source" in request.fixturenames and request.getfixturevalue("source") == "tables":
        with Process(os.getpid()) as process:
            skip_without_tables(process)


def row_of(pid: int, *words: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(mematlas("usage", pid, "--json", *words).stdout)["rows"][0]
    return row


def test_what_was_given_up_is_reported_by_smaps_and_unknown_elsewhere() -> None:
    with program(LAZY, [101, 37, 11]) as target:
        drain_batches()
        assert row_of(target.pid, "--source", "smaps")["lazyfree"] == (101 - 11) * PAGE
        found = json.loads(mematlas("usage", target.pid, "--json", "--source", "pagemap").stdout)
        text = mematlas("usage", target.pid, "--source", "smaps").stdout

    assert found["rows"][0]["lazyfree"] is None
    assert [note for note in texts(found["notes"]) if "only smaps has" in note] == [
        "lazyfree unknown with this source: only smaps has them (--source smaps)"
    ]
    assert any(line.split()[:2] == ["lazyfree", format_size(90 * PAGE).split()[0]] for line in text.splitlines())


@pytest.mark.parametrize("source", SOURCES[1:])
def test_pinned_pages_are_reported_with_every_source(source: str) -> None:
    with program(PINNED, 67) as target:
        if target.told is None:
            pytest.skip(UNPINNED)
        assert row_of(target.pid, "--source", source)["pinned"] == 67 * PAGE


@pytest.mark.parametrize("source", SOURCES[1:])
@steadily
def test_counters_are_those_of_the_kernel(source: str, victim: Start) -> None:
    pid = victim("locked", "anon").pid
    row = row_of(pid, "--source", source)

    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    names = {"size": "VmSize", "peak_size": "VmPeak", "peak_rss": "VmHWM", "locked": "VmLck", "pinned": "VmPin"}
    assert {key: row[key] for key in names} == {
        key: int(status[name].removesuffix("kB")) * 1024 for key, name in names.items()
    }
    assert row["locked"] > 0 == row["pinned"]
    assert row["nr_vmas"] == len(Path(f"/proc/{pid}/maps").read_text().splitlines())


@pytest.mark.parametrize("source", SOURCES[1:])
def test_merged_pages_are_reported_with_every_source(source: str, victim: Start, ksm: None) -> None:
    target = victim("ksm")

    assert row_of(target.pid, "--source", source)["ksm"] == 47 * PAGE


def test_text_has_lines_of_what_there_is_alone(victim: Start) -> None:
    target = victim("locked")
    words = [line.split()[0] for line in mematlas("usage", target.pid).stdout.splitlines()]

    assert {"locked", "peak"} <= set(words)
    assert not {"pinned", "KSM", "lazyfree"} & set(words)


# --- folios


def by_hand(pid: int) -> tuple[Counter[int], int]:
    """Return the resident pages by the length of their folio, and the pages that nobody maps: frame by frame."""
    lengths: Counter[int] = Counter()
    anon: dict[int, int] = {}
    with contextlib.ExitStack() as stack:
        pagemap, flags, counts = (
            stack.enter_context(open(path, "rb", buffering=0))
            for path in (f"/proc/{pid}/pagemap", "/proc/kpageflags", "/proc/kpagecount")
        )

        def word(file: Any, place: int) -> int:
            file.seek(place * 8)
            return int.from_bytes(file.read(8), "little")

        head = end = 0
        for start, fields in read_smaps(pid).items():
            if not fields["Rss"]:
                continue
            for page in range(start // PAGE, fields["End"] // PAGE):
                entry = word(pagemap, page)
                frame = entry & (1 << 55) - 1
                flag = word(flags, frame) if entry >> 63 else 0
                if not flag & KPF_MMAP:
                    continue
                if not head <= frame < end:
                    head, end = frame, frame + 1
                    while word(flags, head) & KPF_COMPOUND_TAIL:
                        head -= 1
                    while word(flags, end) & KPF_COMPOUND_TAIL:
                        end += 1
                lengths[end - head] += 1
                if flag & KPF_ANON and end - head > 1:
                    anon[head] = end
        return lengths, sum(word(counts, frame) == 0 for head, end in anon.items() for frame in range(head, end))


def assert_as_by_hand(pid: int) -> tuple[dict[int, int], int]:
    with Process(pid) as process:
        _, (result, (lengths, nr_held)) = look(pid, lambda: (process.usage(folios=True), by_hand(pid)))
    assert result.folios is not None
    assert result.folios.by_size == {length * PAGE: number * PAGE for length, number in sorted(lengths.items())}
    assert result.folios.held == nr_held * PAGE
    assert sum(result.folios.by_size.values()) == result.usage.rss
    return result.folios.by_size, result.folios.held


@steadily
def test_what_huge_pages_hold_that_were_given_back_in_part_is_reported() -> None:
    with program(PARTIAL, [13, False]) as target:
        by_size, held = assert_as_by_hand(target.pid)

        assert (by_size[HUGE], held) == (13 * PAGE, 13 * (HUGE - PAGE))
        row = row_of(target.pid, "--folios")
        assert (row["folios"][f"{HUGE}"], row["held"], row["thp"]) == (13 * PAGE, held, 0)


@steadily
def test_what_another_process_maps_is_not_held() -> None:
    with program(PARTIAL, [3, True]) as target:
        assert assert_as_by_hand(target.pid)[1] == 0


@pytest.fixture
def small_folios() -> Iterator[None]:
    """Let memory that is advised to be huge come in folios of 16 pages."""
    path = Path(f"/sys/kernel/mm/transparent_hugepage/hugepages-{MTHP >> 10}kB/enabled")
    if not path.exists():
        pytest.skip("needs Linux 6.8 with transparent huge pages: folios of several sizes")
    with locked(path):
        before = path.read_text().partition("[")[2].partition("]")[0]
        path.write_text("madvise")
        try:
            yield
        finally:
            path.write_text(before)


@steadily
def test_folios_smaller_than_huge_pages_are_reported(small_folios: None) -> None:
    with program(SMALL_FOLIOS, 17) as target:
        by_size, held = assert_as_by_hand(target.pid)

        assert (by_size[MTHP], held) == (17 * MTHP, 0)
        assert f"{MTHP >> 10} KiB" in mematlas("usage", target.pid, "--folios").stdout


def test_folios_need_rights_and_a_running_process(as_nobody: Callable[..., Any], victim: Start, tmp_path: Path) -> None:
    target = victim("anon", uid=65534)
    refused = as_nobody(["usage", str(target.pid), "--folios"])
    assert (refused.code, "CAP_SYS_ADMIN" in refused.stderr) == (4, True)

    saved = tmp_path / "saved"
    assert mematlas("capture", target.pid, saved).returncode == 0
    run = mematlas("usage", saved, "--folios")
    assert (run.returncode, run.stderr) == (
        5,
        "mematlas: folios: not supported here (needs a running process, not a capture)\n",
    )


def test_a_capture_has_the_counters(victim: Start, tmp_path: Path) -> None:
    target = victim("locked")
    saved = tmp_path / "saved"
    assert mematlas("capture", target.pid, saved).returncode == 0

    keys = ("size", "peak_size", "locked", "pinned", "ksm", "nr_vmas")
    live, kept = row_of(target.pid), row_of(saved)  # type: ignore[arg-type]
    assert [kept[key] for key in keys] == [live[key] for key in keys]
