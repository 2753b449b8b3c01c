"""The first screen, compared whole: what the RAM is used for, who uses the most, what we may see, what to type."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mematlas.analysis.cached import CachedFile
from mematlas.analysis.overview import Census, Facts, Group, MachineUsage, Measured
from mematlas.analysis.ram import Ram, account
from mematlas.analysis.ranking import others_of
from mematlas.frozen import replace
from mematlas.kernel.memcg import Limit, Pressure
from mematlas.model.containers import place_of
from mematlas.views.format import fold_message
from mematlas.views.frames import table_of
from mematlas.views.overview import overview_view
from mematlas.views.table import Table
from mematlas.views.writers import write

EXPECTED = Path(__file__).parent / "expected"
MIB, GIB = 1 << 20, 1 << 30
MACHINE = {"host": "atlas", "kernel": "6.18.44", "arch": "x86_64", "page_size": 65536}
RAM = Ram(
    total=16 * GIB,
    available=9 * GIB,
    anon=4 * GIB,
    shmem=900 * MIB,
    hugetlb=640 * MIB,
    kernel=500 * MIB,
    page_cache=4 * GIB,
    kernel_caches=300 * MIB,
    free=5 * GIB,
    mapped=700 * MIB,
    cpu_free=80 * MIB,
    hugetlb_free=276 * MIB,
    swap_total=2 * GIB,
    swap_free=GIB,
)


def group(pid: int, name: str, anon: int, nr: int = 1, pss: int | None = None, swap: int = 0) -> Group:
    """Return ``nr`` processes of a name that have as many MiB each; ``pss`` is what all were measured to have."""
    members = [
        Facts(pid + i, 7, name, 0, "0::/", (anon + 5) * MIB, anon * MIB, 5 * MIB, 0, swap * MIB, 0) for i in range(nr)
    ]
    made = Group(members)
    if pss is not None:
        each = Measured(pss * MIB // nr, pss * MIB // nr, swap * MIB, 0)
        made.measured = {member.pid: each for member in members}
    return made


SHOWN = (group(4771, "shop", 70, 3, pss=105), group(812, "postgres", 30, pss=33, swap=17), group(1, "systemd", 8))
ALL = [*SHOWN, group(2000, "bash", 2, 11)]


PRESSURE = Pressure((1.25, 0.5, 0.1), (0.5, 0.0, 0.0), 2995705, 1491556)
TIGHTEST = Limit("memory.max", "/system.slice/docker-" + "5fc0" * 16 + ".scope", 512 * MIB, 480 * MIB, 9 * MIB)


def used(shown: tuple[Group, ...] = SHOWN, ram: Ram = RAM, **fields: Any) -> MachineUsage:
    """Return who uses the memory of the machine; ``fields`` are other than usual."""
    usual = {"refused": (1,), "missing": (), "sharing": {}, "notes": (), "pressure": PRESSURE, "tightest": TIGHTEST}
    return MachineUsage(ram=ram, groups=shown, others=others_of(ALL, shown, ram, False), **{**usual, **fields})


FILES = tuple(
    CachedFile(path, dev, inode, fs, size * MIB, resident * MIB, 0, 0)
    for path, dev, inode, fs, size, resident in (
        ("/usr/lib/python3/dist-packages/torch/lib/libtorch_cpu.so", "fe:00", 7, "ext4", 900, 811),
        (None, "fe:01", 4211, "xfs", 70, 70),
        ("/srv/a\x1b[31m", "fe:00", 8, "ext4", 60, 53),
    )
)


def screen(
    refused: tuple[int, ...] = (1,),
    missing: tuple[str, ...] = (),
    ram: Ram = RAM,
    uid: int = 0,
    files: tuple[CachedFile, ...] | None = FILES,
    nr_lines: int = 22,
) -> Table:
    usage = used(ram=ram, refused=refused, missing=missing)
    why = "" if files else "it is too late"
    return overview_view(MACHINE, usage, None, uid, "mematlas", "sudo -- mematlas", nr_lines, files, why)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_screen_stands_as_it_was_looked_at(width: int) -> None:
    lines = list(screen().lines(width=width))

    assert "\n".join([*lines, ""]) == (EXPECTED / f"overview-{width}.txt").read_text()
    assert max(map(len, lines)) <= width
    notes = [line for note in screen().notes for line in fold_message(f"note: {note.text}", width)]
    assert len(lines) + len(notes) <= 23 or width < 80


def test_bar_is_as_wide_as_parts_are_large() -> None:
    titles = [
        ("processes' own", 4096),
        ("shmem/tmpfs", 900),
        ("hugetlb", 640),
        ("kernel", 500),
        ("per-CPU free lists", 80),
    ]
    titles += [("other", 652 - 248), ("page cache", 4096), ("kernel caches", 300), ("free", 5120)]
    line = next(line for line in screen().lines(width=113) if line.startswith("  RAM"))
    bar = line[13:]

    assert bar.endswith("|")
    assert len(line) == 100
    parts = bar[:-1].split("|")[1:]
    nr_columns = sum(size for _, size in titles)
    for (name, size), part in zip(titles, parts, strict=True):
        assert abs(len(part) + 1 - 86 * size / nr_columns) <= 1
        assert name.startswith(part.rstrip())


@pytest.mark.parametrize(("width", "nr_lines", "nr_files"), [(60, 22, 0), (80, 20, 0), (80, 22, 2), (200, 22, 3)])
def test_files_stand_where_there_is_room_for_them(width: int, nr_lines: int, nr_files: int) -> None:
    text = "\n".join(screen(nr_lines=nr_lines).lines(width=width))

    names = ("libtorch_cpu.so 811 MiB", "inode 4211 on fe:01 70 MiB", "/srv/a\\x1b[31m 53 MiB")
    assert [name in text for name in names] == [number < nr_files for number in range(3)]
    assert "\x1b" not in text


def test_where_files_are_not_known_text_has_none_and_json_says_why() -> None:
    out = io.StringIO()
    write(screen(files=None), "json", out, MACHINE)
    told = json.loads(out.getvalue())

    assert "page cache largest" not in "\n".join(screen(files=None).lines())
    assert told["target"]["files"] is None
    assert told["notes"][-1]["text"] == "the largest files in the page cache are unknown: it is too late"


@pytest.mark.parametrize("width", range(60, 201, 7))
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    longest = group(3_999_999, "a" * 15, 70_000, 4711, pss=70_000, swap=50_000)
    usage = used((longest, *SHOWN), refused=(1, 2, 3, 4))
    lines = list(overview_view(MACHINE, usage, "rss", 0, "mematlas", None).lines(width=width))

    assert [line for line in lines if len(line) > width] == []
    assert any("a" * 15 in line and "68.4 GiB" in line for line in lines)


def test_container_has_a_row_that_fits_whatever_it_is_called() -> None:
    inside = group(7, "init", 9, 12, pss=90)
    inside.container = place_of("0::/lxc.payload." + "web\x1b[31m" * 30).containers[0]
    usage = used((inside,))
    table = overview_view(MACHINE, usage, None, 0, "mematlas", None)
    lines = list(table.lines(width=60))

    assert max(map(len, lines)) <= 60
    assert any(re.search(r"7  lxc web\\x1b.* \(12\) +90 MiB", line) for line in lines)
    (row,) = table.records()
    assert (row["runtime"], row["nr_processes"], row["container"]) == ("lxc", 12, "web\x1b[31m" * 30)


def test_screen_has_lines_for_a_terminal_of_24_and_the_holders_of_swap_and_pools() -> None:
    small = [group(100 + index, f"small{index}", 90 - index, pss=90 - index) for index in range(4)]
    swapper, pool = group(50, "swapper", 1, pss=1, swap=30), group(60, "pool", 1, pss=2)
    pool.measured = {60: Measured(2 * MIB, 2 * MIB, 0, 640 * MIB)}
    shown = (pool, *small, swapper)
    table = overview_view(MACHINE, used(shown), None, 0, "mematlas", "sudo -- mematlas", 22, FILES)
    lines = list(table.lines(width=80))

    assert len(lines) == 22
    rows = [line.split()[1] for line in lines if re.match(r" +\d+  \w", line)]
    assert rows[0] == "pool"
    assert "swapper" in rows
    assert 3 <= len(rows) < 6
    hidden = 6 - len(rows)
    assert f"         {17 + hidden} others" in "\n".join(lines)
    assert len(list(table.records())) == 6
    whole = "\n".join(table.lines(width=0))  # nothing is folded: there is room for all rows
    assert all(each.name in whole for each in shown)


@pytest.mark.parametrize(
    ("pressure", "tightest", "says"),
    [
        (None, None, "- (needs CONFIG_PSI)"),
        (Pressure((0.0,) * 3, (0.0,) * 3, 7, 7), None, "none in 5 min"),
        (Pressure((0.0, 0.0, 0.25), (0.0,) * 3, 7, 7), None, "some 0.25% and full 0% of 5 min"),
        (None, replace(TIGHTEST, path="/a/" + "b" * 99, used=600 * MIB), "0 left of 512 MiB"),
    ],
)
def test_how_near_the_machine_is_to_too_little_memory(
    pressure: Pressure | None, tightest: Limit | None, says: str
) -> None:
    usage = used(pressure=pressure, tightest=tightest)
    lines = list(overview_view(MACHINE, usage, None, 0, "mematlas", None).lines(width=80))

    assert max(map(len, lines)) <= 80
    assert any(says in line for line in lines)


def test_every_part_of_ram_is_shown_and_they_add_up() -> None:
    assert RAM.in_use == 7 * GIB
    parts = (RAM.anon, RAM.shmem, RAM.hugetlb, RAM.kernel, RAM.cpu_free, RAM.reserve, RAM.other)
    assert sum(part or 0 for part in parts) == RAM.in_use
    spare = (RAM.free, RAM.page_cache, RAM.kernel_caches)
    assert sum(part or 0 for part in spare) - (RAM.reserve or 0) == RAM.available


def test_processes_without_a_row_have_what_is_left_of_all_that_is_mapped() -> None:
    # 4 GiB and 700 MiB are mapped; 138 MiB of it are shown. That of PID 1 is not known, so it is in the rest.
    rest = others_of(ALL, SHOWN, RAM, False)

    assert (rest.nr_processes, rest.nr_unknown, rest.pss) == (12, 1, (4096 + 700 - 138) * MIB)


def test_json_has_numbers_where_text_has_words() -> None:
    out = io.StringIO()
    write(screen(), "json", out, MACHINE)
    told = json.loads(out.getvalue())

    row = told["rows"][0]
    assert (row["top_kind"], row["pss"], row["anon"], row["uid"]) == ("anon", 105 * MIB, 210 * MIB, 0)
    assert row["top_share"] == pytest.approx(210 / 215, abs=1e-3)
    assert told["target"]["pressure"]["some"] == [1.25, 0.5, 0.1]
    limit = told["target"]["tightest"]
    assert (limit["size"], limit["used"], limit["spare"]) == (512 * MIB, 480 * MIB, 9 * MIB)
    assert (limit["headroom"], limit["room"]) == (32 * MIB, 41 * MIB)
    ram = told["target"]["ram"]
    assert (ram["total"], ram["in_use"], ram["pss"]) == (16 * GIB, 7 * GIB, 4796 * MIB)
    assert told["target"]["refused"] == [1]
    assert [file["resident"] for file in told["target"]["files"]] == [811 * MIB, 70 * MIB, 53 * MIB]
    assert told["target"]["files"][1]["path"] is None
    assert not [value for value in ram.values() if not isinstance(value, int)]


@pytest.mark.parametrize(
    ("refused", "missing", "says"),
    [
        ((), (), "all processes are visible, with physical addresses."),
        ((1,), (), "all processes are visible but PID 1: the kernel refuses it (why: mematlas doctor)."),
        ((1, 7), (), "but PID 1, 7: the kernel refuses them"),
        ((1, 2, 3), ("CAP_SYS_PTRACE",), "You are root: 3 processes are hidden. Missing: CAP_SYS_PTRACE."),
        ((), ("CAP_SYS_ADMIN",), "You are root: no process is hidden. Missing: CAP_SYS_ADMIN."),
    ],
)
def test_what_is_refused_is_named_with_the_reason(
    refused: tuple[int, ...], missing: tuple[str, ...], says: str
) -> None:
    lines = list(screen(refused, missing).lines())

    assert any(says in line for line in lines)
    assert ("To see all: sudo -- mematlas" in lines) == bool(missing)


def test_who_has_no_rights_is_told_how_many_are_hidden() -> None:
    lines = list(screen((1, 2, 3), ("CAP_SYS_PTRACE",), uid=1000).lines())

    seen = "You see PSS and USS of your own processes only: those of 3 others are hidden."
    assert f"{seen} Missing: CAP_SYS_PTRACE." in lines


@pytest.mark.parametrize("refused", [(1,), (7,)])
def test_what_is_said_to_be_hidden_is_not_said_to_be_unknown_too(refused: tuple[int, ...]) -> None:
    table = screen(refused, ("CAP_SYS_PTRACE",), uid=1000)
    (note,) = table.fine_print if refused == (1,) else table.notes

    assert note.text.startswith("PSS and USS of systemd unknown")
    assert len(list(table.notes)) == (refused == (7,))


def test_machine_that_tells_nothing_shows_no_zeros() -> None:
    lines = list(screen(ram=account({})).lines())

    assert lines[0].endswith(", swap -")
    assert lines[1] == "  in use     unknown: this /proc has no meminfo"
    assert not any(line.startswith("  RAM") for line in lines)
    assert any(line.endswith("PSS unknown") for line in lines)


def test_results_of_the_library_are_plain_and_are_tables() -> None:
    usage = used()
    census = Census(tuple(SHOWN[1].members), {"ended": ()}, 0)

    plain = json.loads(json.dumps(usage.to_dict()))
    assert [each["pids"] for each in plain["groups"]] == [[4771, 4772, 4773], [812], [1]]
    assert plain["ram"]["anon"] == 4 * GIB
    assert plain["groups"][2]["pss"] is None
    assert json.loads(json.dumps(census.to_dict()))["processes"][0]["name"] == "postgres"
    assert [record["pid"] for record in table_of(usage).records()] == [4771, 812, 1]
    assert [record["rss"] for record in table_of(census).records()] == [35 * MIB]
    assert "postgres" in usage._repr_html_()
