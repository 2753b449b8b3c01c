"""`maps --by owner` of programs that know where their stacks, arenas and heaps are, or are asked by others."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome
from helpers import PAGE, Program, look, mematlas, program, skip_without_tables
from mematlas import MapsResult, Process, Selection, VmaUsage, capture
from mematlas.analysis.owners import ARENA_SIZE, Owner
from mematlas.observe.sources import SOURCES
from mematlas.views.maps import maps_table
from mematlas.views.vma_groups import groups_table
from mematlas.words import Source
from victim import DEADLINE, Victim, process_state, wait_until

C_PROGRAM = Path(__file__).with_name("threads_program.c")
NAMES = ("worker", "worker", "worker", "hot", "x\n\x1b[2J,\\", "other anonymous")
STACK_PAGES, PIECES, PIECE = 37, 211, 5000
"""What each thread has touched at the least."""


def compiled(source: str, target: Path) -> Path:
    """Return a program of C, compiled."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    subprocess.run(["gcc", "-O1", "-pthread", "-x", "c", "-o", str(target), "-"], input=source, text=True, check=True)
    return target


@contextmanager
def running(*words: object, user: int | None = None) -> Iterator[Program]:
    """Run a program that prints one line of JSON, and waits until its standard input ends."""
    process = subprocess.Popen(
        list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=user, group=user
    )
    try:
        assert process.stdout
        assert select.select([process.stdout], [], [], DEADLINE)[0], "the program says nothing"
        yield Program(process, json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(C_PROGRAM.read_text(), tmp_path_factory.mktemp("threads") / C_PROGRAM.stem)


@pytest.fixture(scope="module")
def threaded(binary: Path) -> Iterator[Program]:
    with running(binary, *NAMES) as it:
        yield it


def said_by(it: Program, what: str) -> list[dict[str, Any]]:
    """Return what the program said about its stacks or arenas."""
    found = [told for told in it.told if told["what"] == what]
    return [told | {"name": os.fsdecode(bytes.fromhex(told["name"]))} for told in found]


def at(result: MapsResult, address: int) -> VmaUsage:
    """Return the VMA that an address lies in."""
    return next(item for item in result.vmas if item.start <= address < item.end)


def owner_at(result: MapsResult, address: int) -> Owner:
    owner = at(result, address).owner
    assert owner
    return owner


def looked_at(it: Program, source: Source = "smaps") -> MapsResult:
    with Process(it.pid) as process:
        return process.maps(source, owners=True)


def test_the_stack_that_glibc_says_a_thread_has_is_owned_by_it(threaded: Program) -> None:
    stacks, result = said_by(threaded, "stack"), looked_at(threaded)

    assert sorted(told["name"] for told in stacks) == sorted((*NAMES, "own"))
    for told in stacks:
        last = told["start"] + told["size"] - 1
        assert owner_at(result, last) == Owner("thread stack", (told["name"],), ("control block",), (told["tid"],))


def test_a_thread_that_the_c_library_does_not_know_is_found_by_its_stack_pointer(threaded: Program) -> None:
    (told,) = said_by(threaded, "clone")
    found = owner_at(looked_at(threaded), told["start"])
    assert found == Owner("thread stack", (C_PROGRAM.stem[:15],), ("stack pointer",), (told["tid"],))


def test_the_stack_of_a_thread_that_has_ended_is_known_by_its_shape(threaded: Program) -> None:
    (told,) = said_by(threaded, "cached")

    assert owner_at(looked_at(threaded), told["start"]) == Owner("other stack", known_by=("shape",))


def test_memory_that_threads_had_of_malloc_is_in_arenas_and_nothing_else_is(threaded: Program) -> None:
    result = looked_at(threaded)
    arenas = {told["start"] - told["start"] % ARENA_SIZE for told in said_by(threaded, "arena")}
    found = {item.start for item in result.vmas if item.owner and item.owner.what == "glibc arena"}

    assert len(arenas) > 1
    assert {start - start % ARENA_SIZE for start in found} == arenas
    assert all(owner_at(result, told["start"]).what == "glibc arena" for told in said_by(threaded, "arena"))


def test_amounts_of_threads_are_those_of_their_stacks_in_smaps(threaded: Program) -> None:
    fields, result = look(threaded.pid, lambda: looked_at(threaded))
    rows = {row["name"]: row for row in groups_table(result, {}, "owner").records() if row["owner"] == "thread stack"}
    for name in {"worker", "hot", "own"}:
        those = [told for told in said_by(threaded, "stack") if told["name"] == name]
        rss = sum(fields[at(result, told["start"] + told["size"] - 1).start]["Rss"] for told in those)
        assert (rows[name]["nr_threads"], rows[name]["rss"]) == (len(those), rss)
        assert rss >= len(those) * STACK_PAGES * PAGE


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES[1:])
def test_owners_add_up_to_all_there_is_and_are_the_same_by_each_source(source: Source, threaded: Program) -> None:
    with Process(threaded.pid) as process:
        if source == "tables":
            skip_without_tables(process)
        fields, result = look(threaded.pid, lambda: process.maps(source, owners=True))
    sums, whole = groups_table(result, {}, "owner").total_record(), maps_table(result, {}).total_record()

    assert sums
    assert whole
    assert {key: sums[key] for key in sums.keys() & whole.keys()} == {
        key: whole[key] for key in sums.keys() & whole.keys()
    }
    assert sums["rss"] == sum(each["Rss"] for each in fields.values())
    assert [item.owner for item in result.vmas] == [item.owner for item in looked_at(threaded).vmas]


def test_a_part_of_the_memory_has_the_owners_that_it_has_in_the_whole(threaded: Program) -> None:
    result = looked_at(threaded)
    with Process(threaded.pid) as process:
        for told in (*said_by(threaded, "arena"), *said_by(threaded, "stack"), *said_by(threaded, "cached")):
            # An arena, and a stack without its thread, is known by what lies beside it.
            (alone,) = process.maps(selection=Selection(span=(told["start"], told["start"] + 1)), owners=True).vmas
            assert alone.owner == owner_at(result, told["start"])


def test_names_of_threads_are_shown_with_escapes_and_given_to_programs_as_they_are(threaded: Program) -> None:
    text = mematlas("maps", threaded.pid, "--by", "owner").stdout
    rows = json.loads(mematlas("maps", threaded.pid, "--by", "owner", "--json").stdout)["rows"]

    assert r"x\n\x1b[2J,\  " in text.replace("\n", "  \n")
    assert "\x1b" not in text
    assert {row["name"] for row in rows if row["owner"] == "thread stack"} >= {*NAMES, "own"}


def test_a_thread_called_as_an_owner_is_none(threaded: Program) -> None:
    rows = json.loads(mematlas("maps", threaded.pid, "--by", "owner", "--json").stdout)["rows"]
    found = {(row["owner"], row["name"]) for row in rows}

    assert {("thread stack", "other anonymous"), ("other anonymous", "")} <= found


def owners_without_files(it: Program) -> list[tuple[int, Owner | None]]:
    return [(item.start, item.owner) for item in looked_at(it).vmas if not item.path.startswith("/")]


@pytest.mark.root("CAP_SYS_PTRACE")
def test_without_any_right_threads_of_ones_own_are_known(
    binary: Path, tmp_path: Path, as_nobody: Callable[..., Outcome]
) -> None:
    place = Path(shutil.copy(binary, f"/tmp/mematlas-threads-{os.getpid()}"))
    try:
        place.chmod(0o755)
        with running(place, *NAMES, user=65534) as it:
            done = as_nobody(lambda: owners_without_files(it))
            by_root = owners_without_files(it)
    finally:
        place.unlink()
    assert done.value == by_root, done.stderr


def test_a_capture_has_the_owners_of_the_process(threaded: Program, tmp_path: Path) -> None:
    with Process(threaded.pid) as process:
        capture(process, str(tmp_path / "saved"))
    with Process(str(tmp_path / "saved")) as saved:
        result = saved.maps(owners=True)

    live = {item.start: item.owner for item in looked_at(threaded).vmas}
    assert {item.start: item.owner for item in result.vmas} == live
    assert "threads-unknown" not in {note.code for note in result.reading.notes}


def test_a_capture_without_names_tells_threads_of_one_name_from_others(threaded: Program, tmp_path: Path) -> None:
    with Process(threaded.pid) as process:
        capture(process, str(tmp_path / "saved"), redact=True)
    with Process(str(tmp_path / "saved")) as saved:
        result = saved.maps(owners=True)
    pairs = {
        (told["name"], owner_at(result, told["start"] + told["size"] - 1).names) for told in said_by(threaded, "stack")
    }
    assert len(pairs) == len({name for name, _ in pairs}) == len({names for _, names in pairs})
    saved_threads = (tmp_path / "saved" / str(threaded.pid) / "threads").read_text()
    assert not {name for name in NAMES if name in saved_threads}


def test_looks_again_and_again_show_changes_of_owners(threaded: Program) -> None:
    done = mematlas("maps", threaded.pid, "--by", "owner", "-i", "0.05", "-n", "2")

    assert done.returncode == 0
    assert done.stdout.count("CHANGE") == 2


def test_memory_that_a_program_has_named_goes_by_its_name(victim: Callable[..., Victim]) -> None:
    with victim("anon_named") as it, Process(it.pid) as process:
        result = process.maps(owners=True)
        area = it["anon_named"]
        owner = owner_at(result, area.address)

    assert (owner.what, owner.known_by, owner.names) == ("named", ("name",), (at(result, area.address).path,))
    assert owner.names[0].startswith("[anon:")


# --- threads that come and go, and many


CHURN = """
import sys, threading
def work():
    bytearray(1000)
def churn():
    while True:
        some = [threading.Thread(target=work) for _ in range(8)]
        for each in some:
            each.start()
        for each in some:
            each.join()
threading.Thread(target=churn, daemon=True).start()
print("0", flush=True)
"""


def test_threads_that_end_meanwhile_are_no_mistake() -> None:
    with program(CHURN) as it, Process(it.pid) as process:
        for _ in range(30):
            result = process.maps(owners=True)
            sums, whole = groups_table(result, {}, "owner").total_record(), maps_table(result, {}).total_record()
            assert sums
            assert whole
            assert (sums["rss"], sums["size"]) == (whole["rss"], whole["size"])


MANY = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static sem_t named;
static void *work(void *name)
{
    pthread_setname_np(pthread_self(), name);
    sem_post(&named);
    for (;;) pause();
}
int main(int number, char **words)
{
    pthread_attr_t attribute; pthread_t thread; int made = 0;
    pthread_attr_init(&attribute);
    pthread_attr_setstacksize(&attribute, 1 << 17);
    while (made < atoi(words[1]) && !pthread_create(&thread, &attribute, work, "many"))
        made += 1;
    for (int each = 0; each < made; each++)
        sem_wait(&named);
    printf("%d\n", made); fflush(stdout);
    while (getchar() != EOF);
    return number > 9;
}
"""
NR_MANY = 3001


def test_each_of_thousands_of_threads_owns_its_stack(tmp_path: Path) -> None:
    with running(compiled(MANY, tmp_path / "many"), NR_MANY) as it:
        if it.told < NR_MANY:
            pytest.skip(f"needs a kernel that gives a program {NR_MANY} threads (RLIMIT_NPROC, pids.max): {it.told}")

        rows = groups_table(looked_at(it), {}, "owner").records()
        (row,) = [row for row in rows if (row["owner"], row["name"]) == ("thread stack", "many")]
    assert row["nr_threads"] == NR_MANY
    assert row["nr_vmas"] == 2 * NR_MANY  # each with its guard
    assert row["size"] >= NR_MANY * ((1 << 17) + PAGE)  # before Linux 6.7 one may be in a VMA with what lies above


LEFT = r"""
#include <pthread.h>
#include <stdio.h>
static void *work(void *argument)
{
    printf("%lu\n", (unsigned long)&argument); fflush(stdout);
    while (getchar() != EOF);
    return NULL;
}
int main(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, work, NULL);
    pthread_exit(NULL);
}
"""


def test_a_thread_that_outlives_the_first_owns_its_stack(tmp_path: Path) -> None:
    with running(compiled(LEFT, tmp_path / "left")) as it:
        wait_until(lambda: process_state(it.pid) == "Z", "the first thread ends")
        owner = owner_at(looked_at(it), it.told)

    assert (owner.what, owner.names, owner.known_by) == ("thread stack", ("left",), ("control block",))
    assert it.pid not in owner.tids


FORKED = """
import json, os, sys, threading
def fork():
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        print(json.dumps(os.getpid()), flush=True)  # by now the library has told the kernel where its block is
        os.read(ours, 1)
        os._exit(0)
    sys.stdin.read()
threading.Thread(target=fork, daemon=True).start()
threading.Event().wait()
"""


def test_the_only_thread_of_a_fork_that_another_than_the_first_made_owns_the_stack_of_that() -> None:
    with program(FORKED, wait="") as it:
        wait_until(lambda: process_state(it.told) == "S", "it waits: of what runs no stack pointer is told")
        with Process(it.told) as child:
            result = child.maps(owners=True)
        os.kill(it.told, signal.SIGKILL)
    stacks = [
        item.owner for item in result.vmas if item.owner and item.owner.what == "thread stack" and item.owner.tids
    ]

    assert [owner.tids for owner in stacks] == [(it.told,)]


# --- runtimes

JAVA = """class Held {
    public static void main(String[] words) throws Exception {
        byte[][] kept = new byte[61][1 << 20];
        Thread thread = new Thread(() -> { try { Thread.sleep(1L << 40); } catch (Exception e) { } }, "held-worker");
        thread.start();
        System.out.println(ProcessHandle.current().pid());
        Thread.sleep(1L << 40);
        System.out.println(kept.length);
    }
}"""
RESERVED = re.compile(r"^\[(0x\w+) - (0x\w+)\] reserved .* for ([\w ]+?)(?: from)?$", re.MULTILINE)
OF_JAVA = {
    "Java heap": {"Java Heap"},
    "Java code": {"Code"},
    "Java classes": {"Class", "Metaspace", "Shared class space"},
}
"""What the JVM calls it."""


JVMS = sorted({path.resolve().parent for path in Path("/usr/lib/jvm").glob("*/bin/jcmd")})
"""All that there are: what is looked for has another shape in each."""


@pytest.mark.skipif("MEMATLAS_GUEST" in os.environ, reason="the JVM takes minutes on an emulated processor")
@pytest.mark.skipif(not JVMS, reason="needs java and jcmd")
@pytest.mark.parametrize(
    ("place", "more"),
    [*((place, ()) for place in JVMS), *((place, ("-XX:+UseParallelGC", "-Xmx777m")) for place in JVMS[:1])],
    ids=lambda value: value.parent.name if isinstance(value, Path) else " ".join(map(str, value)),
)
def test_memory_of_java_is_what_the_jvm_says_it_is(place: Path, more: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "Held.java").write_text(JAVA)
    with running(place / "java", "-XX:NativeMemoryTracking=detail", "-Xmx512m", *more, tmp_path / "Held.java") as it:
        words = [str(place / "jcmd"), str(it.pid), "VM.native_memory", "detail"]
        run = subprocess.run(words, capture_output=True, text=True, check=True)
        result = looked_at(it)
    regions = [(int(low, 16), int(high, 16), what) for low, high, what in RESERVED.findall(run.stdout)]

    def said_of(item: VmaUsage) -> set[str]:
        return {what for low, high, what in regions if low <= item.start and item.end <= high}

    for name, words_of_jvm in OF_JAVA.items():
        those = [item for item in result.vmas if item.owner and item.owner.what == name]
        assert those
        assert [item.vma for item in those if not said_of(item) & words_of_jvm] == [], name
    heap = [item for item in result.vmas if "Java Heap" in said_of(item)]
    assert {item.owner.what for item in heap if item.owner} <= {"Java heap", "file"}
    assert sum(item.rss or 0 for item in heap) > 61 << 20
    (stack,) = [item for item in result.vmas if item.owner and item.owner.names == ("held-worker",) and item.owner.tids]
    assert said_of(stack) == {"Thread Stack"}


GO = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
__asm__(".pushsection SECTION,\"a\",@progbits\n.long 0xfffffff1\n.popsection");
int main(void)
{
    char *start = (char *)WHERE;
    if (mmap(start, 64 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != start)
        return 1;
    mprotect(start + BEFORE, 4 << 20, PROT_READ | PROT_WRITE);
    madvise(start, 64 << 20, MADV_NOHUGEPAGE);
    memset(start + BEFORE, 1, 173 * BYTES);
    printf("0\n"); fflush(stdout);
    while (getchar() != EOF);
    return 0;
}
"""


@pytest.mark.parametrize(
    ("section", "place", "before", "owner"),
    [
        (".gopclntab", 0xC0 << 32, 0, Owner("Go heap", known_by=("address", "section"))),
        (".other", 0xC0 << 32, 0, Owner("Go heap", known_by=("address",))),
        (".gopclntab", 0x23B100000000, 12 << 20, Owner("Go heap", known_by=("section", "shape"))),
        (".other", 0x23B100000000, 12 << 20, Owner("other anonymous")),
    ],
    ids=["Go", "not a program of Go", "Go 1.26", "anybody"],
)
def test_arenas_of_go_are_known_by_where_they_are_and_by_the_program(
    section: str, place: int, before: int, owner: Owner, tmp_path: Path
) -> None:
    # As go build makes it: no Go is needed, nor is any here.
    values = {"SECTION": section, "WHERE": f"{place:#x}", "BEFORE": str(before), "BYTES": str(PAGE)}
    source = re.sub("SECTION|WHERE|BEFORE|BYTES", lambda match: values[match[0]], GO)
    with running(compiled(source, tmp_path / "go")) as it, Process(it.pid) as process:
        result = process.maps(owners=True)
        capture(process, str(tmp_path / "saved"))
    with Process(str(tmp_path / "saved")) as saved:
        kept = saved.maps(owners=True)

    for each in (result, kept):
        assert owner_at(each, place + before) == owner
    assert at(result, place + before).rss == 173 * PAGE


def test_zeros_of_a_program_are_its_own_and_as_many_as_it_has(tmp_path: Path) -> None:
    source = r"""
#include <stdio.h>
#include <string.h>
static char zeros[1009 << 14];
int main(void)
{
    memset(zeros, 1, sizeof zeros / 2);
    printf("%lu\n", (unsigned long)zeros); fflush(stdout);
    while (getchar() != EOF);
    return 0;
}
"""
    with running(compiled(source, tmp_path / "zeros")) as it:
        result = looked_at(it)
    item = at(result, it.told + (504 << 14))

    assert item.owner == Owner("program data", known_by=("address",))
    assert item.size >= 1008 << 14
    assert [each for each in result.vmas if each.owner == item.owner] == [item]
