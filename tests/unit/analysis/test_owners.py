"""Owners of memory, by names, shapes and stacks: on VMAs made by hand."""

from __future__ import annotations

import pytest

from mematlas.analysis.groups import grouped
from mematlas.analysis.owners import REST, Clues, Owner, find_owners, together
from mematlas.analysis.results import VmaUsage
from mematlas.analysis.usage import total
from mematlas.kernel.maps import parse_maps
from mematlas.kernel.threads import Thread

PID = 700
MIB = 1 << 20
ARENA = 64 * MIB
TOP = 0x7F0000000000
JVM = "7e0000000000-7e0000100000 r-xp 00000000 fe:00 9 /opt/jdk/lib/server/libjvm.so"


def line(start: int, size: int, perms: str = "rw-p", path: str = "") -> str:
    dev = "fe:00 9" if path.startswith("/") else "00:00 0"
    return f"{start:x}-{start + size:x} {perms} 00000000 {dev} {path}"


def owners(*lines: str, threads: tuple[Thread, ...] = (), data_end: int = 0, is_go: bool | None = None) -> list[Owner]:
    clues = Clues(page_size=4096, pid=PID, threads=threads, data_end=data_end, is_go=is_go)
    return find_owners(parse_maps(text.encode() for text in lines), clues)


def whats(*lines: str, **clues: object) -> list[str]:
    return [owner.what for owner in owners(*lines, **clues)]  # type: ignore[arg-type]


# --- names


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        (line(TOP, MIB, path="[heap]"), Owner("heap", ("[heap]",), ("name",))),
        (line(TOP, MIB, path="[stack]"), Owner("main stack", ("[stack]",), ("name",))),
        (line(TOP, MIB, "r-xp", "[vdso]"), Owner("vdso", ("[vdso]",), ("name",))),
        (line(TOP, MIB, path="[anon: glibc: malloc]"), Owner("named", ("[anon: glibc: malloc]",), ("name",))),
        (line(TOP, MIB, path="[anon:x\x1b[2J]"), Owner("named", ("[anon:x\x1b[2J]",), ("name",))),
        (line(TOP, MIB, path="/usr/lib/libc.so.6"), Owner("file", ("/usr/lib/libc.so.6",), ("path",))),
        (line(TOP, MIB), REST),
        (line(TOP, MIB, "---p"), REST),
    ],
    ids=["heap", "stack", "vdso", "named", "odd name", "file", "anonymous", "reserved"],
)
def test_what_has_a_name_is_owned_by_it_and_the_rest_by_nobody_known(text: str, owner: Owner) -> None:
    assert owners(text) == [owner]


def test_shared_memory_goes_by_its_path() -> None:
    text = f"{TOP:x}-{TOP + MIB:x} rw-s 00000000 00:01 9 /memfd:x (deleted)"

    assert owners(text) == [Owner("shmem", ("/memfd:x (deleted)",), ("path",))]


@pytest.mark.parametrize("name", ["[anon: glibc: pthread stack: 702]", "[anon:stack_and_tls:702]"])
def test_a_stack_with_the_number_of_its_thread_in_its_name_is_that_threads(name: str) -> None:
    found = owners(line(TOP, MIB, path=name), threads=(Thread(702, "pump", None, None),))

    assert found == [Owner("thread stack", ("pump",), ("name",), (702,))]


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "main", "²", ""])
def test_a_number_of_a_thread_that_is_none_names_no_thread(number: str) -> None:
    (owner,) = owners(line(TOP, MIB, path=f"[anon:stack_and_tls:{number}]"))

    assert (owner.what, owner.tids) == ("named", ())


# --- stacks of threads

GUARD, STACK = 0x1000, 8 * MIB
GUARDED = line(TOP, GUARD, "---p"), line(TOP + GUARD, STACK)
END = TOP + GUARD + STACK


def test_a_thread_owns_the_memory_that_its_control_block_is_on_top_of_and_the_guard() -> None:
    stack = Owner("thread stack", ("pump",), ("control block",), (702,))
    found = owners(*GUARDED, threads=(Thread(702, "pump", None, END - 0x700),))

    assert found == [Owner("thread stack", ("pump",), ("control block",), ()), stack]


def test_a_thread_without_a_control_block_owns_what_its_stack_pointer_is_in() -> None:
    found = owners(*GUARDED, threads=(Thread(702, "pump", END - 0x3000, None),))

    assert [owner.known_by for owner in found] == [("stack pointer",)] * 2


def test_a_stack_pointer_tells_nothing_of_memory_without_a_guard() -> None:
    # A stack that a runtime has cut out of its heap: Go does.
    assert whats(line(TOP, 8 * MIB), threads=(Thread(702, "m", TOP + 0x3000, None),)) == ["other anonymous"]


def test_what_lies_far_below_the_top_is_no_control_block() -> None:
    found = whats(line(TOP, STACK), threads=(Thread(702, "pump", None, TOP + 0x700),))

    assert found == ["other anonymous"]


def test_the_first_thread_has_its_control_block_elsewhere_and_the_stack_it_runs_on_where_another_forked() -> None:
    assert whats(line(TOP, 0x3000), threads=(Thread(PID, "main", None, TOP + 0x740),)) == ["other anonymous"]
    assert whats(*GUARDED, threads=(Thread(PID, "main", END - 0x3000, END - 0x700),)) == ["thread stack"] * 2


def test_the_control_block_of_the_first_thread_may_be_in_the_vma_of_anothers_stack() -> None:
    # The kernel has put its static TLS into one VMA with the stack below (before Linux 6.7).
    threads = Thread(PID, "main", None, END + 0x2740), Thread(702, "pump", None, END - 0x700)
    lines = line(TOP, GUARD, "---p"), line(TOP + GUARD, STACK + 0x3000)

    assert [owner.names for owner in owners(*lines, threads=threads)] == [("pump",)] * 2


def test_threads_whose_stacks_the_kernel_has_put_together_own_them_together() -> None:
    # glibc 2.42 has its guards within the VMA (MADV_GUARD_INSTALL).
    threads = tuple(Thread(702 + each, f"w{each % 2}", None, TOP + (1 + each) * STACK - 0x700) for each in range(3))
    (owner,) = owners(line(TOP, 3 * STACK), threads=threads)

    assert owner == Owner("thread stack", ("w0", "w1"), ("control block",), (702, 703, 704))


def test_a_control_block_in_the_heap_leaves_the_heap_to_itself() -> None:
    assert whats(line(TOP, MIB, path="[heap]"), threads=(Thread(702, "x", None, TOP + MIB - 8),)) == ["heap"]


@pytest.mark.parametrize("address", [0, 1, TOP - 1, END, (1 << 64) - 1])
def test_addresses_outside_of_all_memory_tell_nothing(address: int) -> None:
    found = owners(line(TOP, STACK), threads=(Thread(702, "x", address, address),))

    assert found == [REST]


@pytest.mark.parametrize(
    ("guard", "size", "what"),
    [
        (0x1000, STACK, "other stack"),  # glibc
        (0x2000, 0x1E000, "other stack"),  # musl: 128 KiB with the guard
        (0x4000, 0xFC000, "other stack"),  # Java: a MiB with the guard
        (0x3000, 412 << 10, "other anonymous"),
        (0x1000, 0x10000, "other anonymous"),
        (MIB, STACK, "other anonymous"),
    ],
)
def test_what_has_the_shape_of_a_stack_is_one_though_no_thread_is_known(guard: int, size: int, what: str) -> None:
    assert whats(line(TOP, guard, "---p"), line(TOP + guard, size)) == [what] * 2


# --- arenas of glibc


def arena(start: int, used: int) -> tuple[str, str]:
    return line(start, used), line(start + used, ARENA - used % ARENA, "---p")


def test_memory_from_a_multiple_of_64_mib_on_with_the_rest_reserved_is_an_arena() -> None:
    assert owners(*arena(TOP, 0x21000)) == [Owner("glibc arena", known_by=("shape",))] * 2


def test_arenas_that_follow_each_other_are_arenas() -> None:
    assert whats(*arena(TOP, 0x21000), *arena(TOP + ARENA, 0x103000)) == ["glibc arena"] * 4


def test_a_full_heap_of_an_arena_is_known_by_others() -> None:
    full = line(TOP + 2 * ARENA, ARENA)

    assert whats(full) == ["other anonymous"]
    assert whats(*arena(TOP, 0x21000), full) == ["glibc arena"] * 3
    assert whats(*arena(TOP, ARENA + 0x21000)) == ["glibc arena"] * 2  # the kernel has put two together


@pytest.mark.parametrize(
    "lines",
    [
        (line(TOP + 0x1000, 0x21000), line(TOP + 0x22000, ARENA - 0x22000, "---p")),
        (line(TOP, 0x21000), line(TOP + 0x21000, ARENA, "---p")),
        (line(TOP, 0x21000), line(TOP + 0x22000, ARENA - 0x22000, "---p")),
        (line(TOP, 0x21000, "r--p"), line(TOP + 0x21000, ARENA - 0x21000, "---p")),
        (line(TOP, 0x21000, path="[anon:x]"), line(TOP + 0x21000, ARENA - 0x21000, "---p")),
    ],
    ids=["begins elsewhere", "ends elsewhere", "in two pieces", "read-only", "named"],
)
def test_what_is_not_quite_an_arena_is_none(lines: tuple[str, str]) -> None:
    assert "glibc arena" not in whats(*lines)


# --- runtimes

GO = 0xC0 << 32


@pytest.mark.parametrize("is_go", [True, False, None])
def test_whole_arenas_where_go_asks_for_them_are_its_heap(is_go: bool | None) -> None:
    by = ("address", "section") if is_go else ("address",)

    assert (
        owners(line(GO, 4 * MIB), line(GO + 4 * MIB, 60 * MIB, "---p"), is_go=is_go)
        == [Owner("Go heap", known_by=by)] * 2
    )


@pytest.mark.parametrize(("is_go", "what"), [(True, "Go heap"), (False, "other anonymous"), (None, "other anonymous")])
def test_a_heap_at_a_place_by_chance_is_known_in_a_program_of_go(is_go: bool | None, what: str) -> None:
    start = 0x23B100000000
    lines = line(start, 12 * MIB, "---p"), line(start + 12 * MIB, 4 * MIB), line(start + 16 * MIB, 48 * MIB, "---p")

    assert whats(*lines, is_go=is_go) == [what] * 3


def test_part_of_an_arena_is_no_heap_of_go() -> None:
    assert whats(line(GO, 4 * MIB), line(GO + 4 * MIB, 59 * MIB, "---p"), is_go=True) == ["other anonymous"] * 2


def test_the_jvm_has_objects_below_32_gib_code_that_can_be_written_and_classes_behind_their_archive() -> None:
    archive, metaspace = 0x7D0000000000, 0x7DFFFB000000
    lines = {
        line(0xE0000000, 300 * MIB): "Java heap",
        line(0xE0000000 + 300 * MIB, 200 * MIB, "---p"): "Java heap",
        line(0xE0000000 + 500 * MIB, MIB, path="/opt/jdk/lib/server/classes.jsa"): "file",
        line(0xE0000000 + 501 * MIB, 11 * MIB): "Java heap",
        line(archive - 0x1000, 0x1000, "---p"): "Java classes",
        line(archive, 13 * MIB, path="/opt/jdk/lib/server/classes.jsa"): "file",
        line(archive + 13 * MIB, 3 * MIB, "---p"): "Java classes",
        line(archive + 16 * MIB, 0x10000): "Java classes",
        line(archive + 16 * MIB + 0x10000, (1 << 30) - 0x10000, "---p"): "Java classes",
        line(archive + 16 * MIB + (1 << 30), MIB): "other anonymous",
        line(metaspace, 0x50000): "Java classes",
        line(metaspace + 0x50000, 4 * MIB - 0x50000, "---p"): "Java classes",
        line(metaspace + 4 * MIB, 0x10000): "Java classes",
        line(metaspace + 4 * MIB + 0x10000, 60 * MIB - 0x10000, "---p"): "Java classes",
        JVM: "file",
        line(TOP, 0x270000, "rwxp"): "Java code",
        line(TOP + 0x270000, 100 * MIB, "---p"): "Java code",
        line(TOP + 200 * MIB + 0x1000, MIB): "other anonymous",
    }

    assert whats(*lines) == list(lines.values())


def test_without_the_jvm_the_same_memory_is_not_of_java() -> None:
    assert whats(line(0xE0000000, 300 * MIB), line(TOP, 0x270000, "rwxp")) == ["other anonymous"] * 2


@pytest.mark.parametrize("size", [0x1000, ARENA, 4 * MIB])
@pytest.mark.parametrize("perms", [("---p", "r--p"), ("rw-p", "---p"), ("rwxp", "r--p")])
def test_a_program_with_as_many_vmas_as_it_likes_is_looked_at_once(size: int, perms: tuple[str, str]) -> None:
    # Whatever goes on from VMA to VMA would take hours if it began anew at each: these are all the kernel allows.
    lines = [line(TOP >> 1, 0x1000, path="/opt/jdk/lib/server/libjvm.so")]
    lines += [line((GO if size == ARENA else TOP) + number * size, size, perms[number % 2]) for number in range(65_000)]
    threads = tuple(Thread(number, "x", TOP + number * size, TOP + number * size) for number in range(5000))

    assert len(owners(*lines, threads=threads, is_go=True)) == len(lines)


def test_zeros_of_the_program_lie_behind_the_page_where_its_data_ends() -> None:
    lines = line(0x555000, 0x2000, path="/bin/x"), line(0x557000, 0x5000), line(TOP, 0x5000)

    assert whats(*lines, data_end=0x556123) == ["file", "program data", "other anonymous"]
    assert whats(*lines, data_end=0x555123) == ["file", "other anonymous", "other anonymous"]
    assert whats(*lines) == ["file", "other anonymous", "other anonymous"]


# --- together


def test_threads_of_one_name_are_one_owner_with_all_that_tells_it() -> None:
    second = TOP + GUARD + STACK
    lines = (*GUARDED, line(second, GUARD, "---p"), line(second + GUARD, STACK))
    threads = Thread(702, "w", END - 0x3000, None), Thread(703, "w", None, second + GUARD + STACK - 8)
    vmas = parse_maps(text.encode() for text in lines)
    found = find_owners(vmas, Clues(page_size=4096, pid=PID, threads=threads))
    items = [VmaUsage(vma, total(()), None, None, owner=owner) for vma, owner in zip(vmas, found, strict=True)]

    (group,) = grouped(items, "owner")
    assert group.owner == Owner("thread stack", ("w",), ("stack pointer", "control block"), (702, 703))
    assert group.size == 2 * (GUARD + STACK)


def test_owners_together_keep_their_name() -> None:
    assert together([REST, REST]) == REST
