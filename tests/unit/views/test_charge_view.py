"""What a cgroup is charged, as text and JSON: whole, and with what is not known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mematlas.analysis.charge import Charge, Held, Oom, Victim, parts_of
from mematlas.analysis.results import Reading
from mematlas.analysis.set_usage import SetUsage
from mematlas.frozen import replace
from mematlas.kernel.memcg import Limit, Pressure
from mematlas.notes import Note
from mematlas.views.charge import charge_record, charge_text
from mematlas.views.set_usage import group_table
from mematlas.views.table import Table

MIB = 1 << 20
AMOUNTS = {
    "anon": 100 * MIB,
    "file": 400 * MIB,
    "shmem": 300 * MIB,
    "mapped_file": 40 * MIB,
    "lru": 502 * MIB,
    "kernel": 20 * MIB,
    "slab": 9 * MIB,
    "stacks": MIB,
    "tables": 4 * MIB,
    "percpu": 0,
    "sock": 0,
    "hugetlb": 0,
}
HELD = Held(anon=100 * MIB, shmem=10 * MIB, file=30 * MIB, elsewhere=(("/init", 5 * MIB), (None, MIB)), uncharged=8192)
MAX = Limit("memory.max", "/shop", 640 * MIB, 523 * MIB, 60 * MIB)
HIGH = Limit("memory.high", "/", 2048 * MIB, 1024 * MIB, 0)
OOM = Oom(MAX, Victim(4211, "post\ngres", 96 * MIB, 671, 100), 1, 0, "/shop", False)
PRESSURE = Pressure((1.5, 0.25, 0.0), (0.5, 0.0, 0.0), 77, 7)


def charge(**changes: Any) -> Charge:
    held = changes.get("held", HELD)
    amounts = changes.pop("amounts", AMOUNTS)
    fields: dict[str, Any] = {
        "cgroup": "/shop",
        "version": 2,
        "charged": 523 * MIB,
        "swap": 7 * MIB,
        "peak": 600 * MIB,
        "unsure": 2 * MIB,
        "parts": parts_of(amounts, held),
        "mapped_file": amounts.get("mapped_file"),
        "nr_processes": 3,
        "held": held,
        "limits": (MAX, HIGH),
        "events": {"low": 0, "max": 12, "oom_kill": 1},
        "pressure": PRESSURE,
        "oom": OOM,
        "reading": Reading("memory.stat", 0.012, False, ()),
    }
    return Charge(**fields | changes)


def text(one: Charge, width: int = 0) -> str:
    return "\n".join(charge_text(one, width=width)) + "\n"


def lines_in(one: Charge) -> list[str]:
    """Return the lines, whatever the width of the columns."""
    return [" ".join(line.split()) for line in text(one).splitlines()]


def test_parts_limits_and_what_has_happened_are_lines() -> None:
    assert text(charge(), 80) == (
        "charge of cgroup /shop, from memory.stat in 12 ms\n"
        "CHARGE         SIZE  MEANING\n"
        "charged     523 MiB  RAM that it and the groups below it are charged\n"
        "  mapped    140 MiB  by its processes\n"
        "  shmem     290 MiB  tmpfs, memfd, System V: mapped by none of them\n"
        "  file       70 MiB  page cache: mapped by none of them\n"
        "  unmapped    2 MiB  mapped by nobody: in the swap cache, or left of huge pages\n"
        "  slab        9 MiB  kernel: small objects, such as inodes and dentries\n"
        "  stacks      1 MiB  kernel: stacks of threads\n"
        "  tables      4 MiB  kernel: page tables\n"
        "  kernel      6 MiB  kernel: other\n"
        "  rest        1 MiB  charged ahead or counted late: the kernel's batches are up\n"
        "                     to 2 MiB\n"
        "elsewhere     6 MiB  mapped by its processes, charged to /init and 1 other\n"
        "in swap       7 MiB  charged to it there\n"
        "headroom    117 MiB  of 640 MiB: memory.max of /shop; 60 MiB of what is used\n"
        "                     makes room by itself\n"
        "until high    1 GiB  of 2 GiB: memory.high of /\n"
        "events: max 12, oom_kill 1\n"
        "pressure: somebody waited for memory 1.5% of the last 10 s and 0.25% of the\n"
        "    last minute, all of them 0.5% and 0%\n"
        "at memory.max of /shop the first to be killed would be PID 4211\n"
        "    (post\\ngres), for 96 MiB, oom_score_adj 100 included, and with it all of\n"
        "    /shop (memory.oom.group)\n"
    )


@pytest.mark.parametrize("width", [60, 80])
def test_path_of_a_container_is_cut_so_that_the_table_stays_one(width: int) -> None:
    path = f"/kubepods.slice/kubepods-burstable.slice/pod7/cri-containerd-{'3f' * 32}.scope"
    limit = Limit("memory.limit_in_bytes", path, 640 * MIB, 523 * MIB, 0)
    held = replace(HELD, elsewhere=((path, 5 * MIB),))
    lines = list(
        charge_text(charge(cgroup=path, limits=(limit,), held=held, oom=replace(OOM, limit=limit)), width=width)
    )

    assert max(map(len, lines)) <= width
    assert any(line.startswith("headroom") and "of 640 MiB: memory.limit_in_bytes of" in line for line in lines)
    assert path in "\n".join(charge_text(charge(cgroup=path)))


def test_without_frames_what_anybody_maps_is_all_that_is_known() -> None:
    lines = lines_in(charge(held=None, limits=(), oom=Oom(None, None, 2, 0, None, False)))

    assert "anon 100 MiB anonymous memory that is mapped" in lines
    assert "nobody's 360 MiB of shmem and file: mapped by nobody" in lines
    assert "headroom - no limit, up to the root" in lines
    assert lines[-1] == "nobody can be killed: oom_score_adj is -1000 for each of them"
    assert not any(line.startswith(("mapped", "elsewhere")) for line in lines)


@pytest.mark.parametrize(
    ("victim", "spared", "says"),
    [
        (None, 2, "who would be killed first is not known: 3 processes could not be weighed"),
        (OOM.victim, 0, "3 processes could not be weighed, and may come before that one"),
    ],
)
def test_who_could_not_be_weighed_may_be_the_first(victim: Victim | None, spared: int, says: str) -> None:
    lines = lines_in(charge(oom=Oom(MAX, victim, spared, 3, None, False)))

    assert lines[-1] == says
    assert any("first to be killed would be PID 4211" in line for line in lines) is (victim is not None)


def test_charge_without_processes_belongs_to_nobody() -> None:
    held = Held(0, 0, 0, (), 0)

    lines = lines_in(charge(nr_processes=0, held=held, oom=Oom(MAX, None, 0, 0, None, False)))

    assert lines[0] == "charge of cgroup /shop, which belongs to nobody: no process is in it, from memory.stat in 12 ms"
    assert "shmem 300 MiB tmpfs, memfd, System V: mapped by none of them" in lines
    assert not any("killed" in line or line.startswith("mapped") for line in lines)


def test_root_is_charged_nothing() -> None:
    lines = lines_in(charge(charged=None))

    assert "charged - the root is charged nothing" in lines
    assert not any(line.startswith("rest") for line in lines)


def test_more_than_the_batches_of_the_kernel_is_said_to_be_unexplained() -> None:
    assert "rest 3 MiB not explained: the kernel's batches are up to 2 MiB alone" in lines_in(charge(charged=525 * MIB))


def test_killer_that_is_off_lets_everybody_wait() -> None:
    assert "at the limit nobody is killed: whoever needs memory waits (memory.oom_control)\n" in text(
        charge(oom=Oom(MAX, None, 0, 0, None, True))
    )


def test_version_1_says_of_the_kernel_only_all() -> None:
    old = {name: size for name, size in AMOUNTS.items() if name not in ("slab", "stacks", "tables", "percpu")}

    assert "kernel 20 MiB kernel: objects, stacks, page tables and all else" in lines_in(charge(amounts=old))


def usage(one: Charge | None, pids: tuple[int, ...] = (7, 8, 9)) -> SetUsage:
    return SetUsage(
        "cgroup:/shop",
        pids,
        **dict.fromkeys(  # type: ignore[arg-type]
            ("rss", "anon", "file", "shmem", "pss", "uss", "swap", "hugetlb", "tables", "rss_sum"), 4096 * len(pids)
        ),
        reading=Reading("pagemap", 0.04, False, (Note("x", "a note"),)),
        cgroup="/shop",
        charge=one,
    )


def lines_of(table: Table) -> list[str]:
    return list(table.lines(width=100))


def test_charge_stands_below_the_usage_of_its_processes() -> None:
    lines = lines_of(group_table([usage(charge())]))

    assert lines[:2] == ["cgroup:/shop, 3 processes, from pagemap in 40 ms", "MEASURE       SIZE  MEANING"]
    assert lines[lines.index("") + 1] == "charge of cgroup /shop, from memory.stat in 12 ms"
    assert "charge of" not in "".join(lines_of(group_table([usage(None)])))


def test_of_nobody_there_is_the_charge_alone() -> None:
    lines = lines_of(group_table([usage(charge(nr_processes=0), pids=())]))

    assert lines[0].startswith("charge of cgroup /shop, which belongs to nobody")
    assert not any(line.startswith("RSS") for line in lines)


def test_several_groups_have_columns_of_charge_limit_and_headroom_where_any_is_a_cgroup() -> None:
    with_one = group_table([usage(charge()), usage(None)], usage(None))
    without = group_table([usage(None), usage(None)], usage(None))

    assert {"CHARGED", "LIMIT", "HEADROOM"} <= set(with_one.headings)
    assert not {"CHARGED", "LIMIT", "HEADROOM"} & set(without.headings)
    first, second = with_one.records()
    assert (first["charged"], first["limit"], first["headroom"]) == (523 * MIB, 640 * MIB, 117 * MIB)
    assert (second["charged"], second["limit"], second["charge"]) == (None, None, None)


def test_json_has_all_of_it_and_what_follows_from_it() -> None:
    record = json.loads(json.dumps(charge_record(charge())))

    assert (record["rest"], record["mapped"], record["headroom"]) == (MIB, 140 * MIB, 117 * MIB)
    assert (record["unmapped_file"], record["by_others"]) == (360 * MIB, 0)
    assert record["held"]["elsewhere"] == [["/init", 5 * MIB], [None, MIB]]
    assert record["oom"]["victim"]["pid"] == 4211
    assert record["pressure"]["some"] == [1.5, 0.25, 0.0]


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_usage_of_a_group_is_a_row_for_other_libraries_with_the_charge_as_json(library: str) -> None:
    pytest.importorskip(library.replace("arrow", "pyarrow"), reason=f"needs {library}")
    frame = getattr(usage(charge()), f"to_{library}")()
    column = frame["charge"].to_pylist() if library == "arrow" else frame["charge"].to_list()

    assert json.loads(column[0])["charged"] == 523 * MIB


def test_notebook_shows_what_a_group_is_charged() -> None:
    html = usage(charge())._repr_html_()

    assert "CHARGED" in html
    assert "523 MiB" in html


@pytest.mark.parametrize("name", ["/a\x1b[31m", "/\udcff", "/a\nb"])
def test_names_are_safe_on_a_terminal(name: str) -> None:
    limit = Limit("memory.max", name, 640 * MIB, 523 * MIB, 0)
    held = Held(0, 0, 0, ((name, MIB),), 0)

    lines = text(charge(cgroup=name, limits=(limit,), held=held, oom=Oom(limit, OOM.victim, 0, 0, name, False)))

    assert all(character.isprintable() for character in lines.replace("\n", ""))
    assert len(lines.splitlines()) == len(text(charge(limits=(limit,), held=held)).splitlines())
