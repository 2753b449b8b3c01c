"""What is measured, against whom, and the bar: data only."""

import os
import sys
from dataclasses import dataclass

from measure import Command

GIB = 1 << 30
MIB = 1 << 20
PAGE = os.sysconf("SC_PAGESIZE")
SMALL = f"{PAGE >> 10} KiB pages"
STEP = 2 * PAGE // 8 * PAGE
"""Addresses of two page tables: c/victim.c touches a page in each so many."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A process with known memory."""

    label: str
    arguments: tuple[str, ...]
    """Those of bench/c/victim.c."""
    needs: int
    """Bytes of memory that it takes."""
    has_thp: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody to compare with."""

    command: Command
    bar: float | None = None
    """The ratio that we must not pass; none where we only report."""


@dataclass(frozen=True, slots=True)
class Job:
    """One command of ours, its victim and its peers."""

    name: str
    victim: Victim | None
    ours: Command
    peers: tuple[Peer, ...]
    peak_bar: int | None = None
    """Bytes of memory that ours must not pass."""
    cpu_bar_ms: float | None = None
    """CPU time that ours must not pass."""
    wall_bar_ms: float | None = None
    """Time from start to end that ours must not pass."""
    note: str = ""


def mematlas(*arguments: str) -> Command:
    """Return a command of the mematlas that is installed beside our interpreter."""
    label = " ".join(("mematlas", *arguments)).replace(" {pid}", "")
    return Command(label, ("{mematlas}", *arguments))


def usage_of(source: str) -> Command:
    """Return a look at the amounts by a source."""
    return mematlas("usage", "--source", source, "{pid}")


def in_process(label: str, *argv: str) -> Command:
    """Return a program that repeats its work and reports the CPU time of each time."""
    return Command(label, (*argv, "{pid}", "5"), reports=True)


def first_walk(cache: str) -> Command:
    """Return the walk of one address; ``cold`` has no directory that offsets could be kept in."""
    words = ("{mematlas}", "tables", "{pid}", "0x1000")
    where = ("env", "-u", "SUDO_UID", "XDG_CACHE_HOME=/proc/none") if cache == "cold" else ()
    return Command(f"mematlas tables ADDRESS, {cache}", (*where, *words))


def share_of(nr: int) -> Command:
    """Return who shares what, of all processes, which must show what so many share."""
    return Command("mematlas share", ("{mematlas}", "share", "--sets", "--json"), says=f'"nr_sharers": {nr},')


def owner_of(nr: int) -> Command:
    """Return who has a frame, which must show that so many map it."""
    return Command("mematlas owner", ("{python}", "{bench}/owner.py", "{mematlas}", "{pid}"), says=f'"count": {nr},')


def first_screen(row: str) -> Command:
    """Return the first screen, on which this row must be."""
    return Command("mematlas", ("{mematlas}",), says=row)


def programs(nr: int) -> Victim:
    """Return processes that each run an interpreter."""
    words = ("programs", str(nr), sys.executable, "-c", "import signal; print(flush=True); signal.pause()")
    return Victim(f"{nr + 1:,} processes beside those that there are", words, needs=nr * 8 * MIB)


ANON4K = Victim(f"4 GiB of touched {SMALL}", ("small", str(4 * GIB)), needs=4 * GIB)
ANON1G = Victim(f"1 GiB of touched {SMALL}", ("small", str(GIB)), needs=GIB)
THP = Victim("4 GiB of transparent huge pages", ("thp", str(4 * GIB)), needs=4 * GIB, has_thp=True)
ANON230K = Victim(f"230,400 touched {SMALL}", ("small", str(230_400 * PAGE)), needs=230_400 * PAGE)
SPARSE = Victim("1 TiB with 262,144 pages scattered in it", ("sparse",), needs=262_144 * PAGE)
SCATTERED = Victim(
    f"1 TiB with one page in each {STEP >> 20} MiB, each in a page table of its own",
    ("scattered",),
    needs=2 * PAGE * ((1 << 40) // STEP),
)
VMAS = Victim("60,000 VMAs of a page each", ("vmas", "60000"), needs=60_000 * PAGE + 16 * MIB)
SLEEPERS = Victim("5,001 processes that sleep", ("backends", "5000", str(2 * MIB)), needs=2 * GIB)
BACKENDS = Victim("61 processes that share 600 MiB", ("backends", "60", str(600 * MIB)), needs=GIB)
HUNDRED = Victim("100 processes that share 64 MiB", ("backends", "99", str(64 * MIB)), needs=512 * MIB)
NINETY, THOUSAND = programs(60), programs(1000)
TINY = Victim("a process of 1.4 MiB", ("tiny",), needs=MIB)

CAT_SMAPS = Command("cat smaps", ("cat", "/proc/{pid}/smaps"))
CAT_ROLLUP = Command("cat smaps_rollup", ("cat", "/proc/{pid}/smaps_rollup"))
PMAP = Command("pmap -X", ("pmap", "-X", "{pid}"))
PSUTIL = Command(
    "psutil memory_full_info",
    ("{python}", "-c", "import psutil; print(psutil.Process({pid}).memory_full_info())"),
    module="psutil",
)
PYTHON_ROLLUP = Command(
    "python that reads smaps_rollup",
    ("{python}", "-c", "import os; os.write(1, open('/proc/{pid}/smaps_rollup', 'rb').read())"),
)
PASS = Command("python -c pass", ("{python}", "-c", "pass"), is_silent=True)
PLAIN_PAGES = Command("a plain loop in Python", ("{python}", "{bench}/plain_pages.py", "{pid}"))
SMEM = Command("smem", ("smem", "-c", "pid user name uss pss rss swap command"))
PSUTIL_LOOP = Command("a loop with psutil", ("{python}", "{bench}/plain_ps.py"), module="psutil")
C_LOOP = Command("C loop over smaps_rollup", ("{bin}/rollup_loop",))
LIST = mematlas("ps", "--columns", "pid,user,name,uss,pss,rss,swap,cgroup")
C_PREAD = in_process("C pread of pagemap", "{bin}/pread_scan")
C_SCAN = Command("C PAGEMAP_SCAN", ("{bin}/pagemap_scan", "{pid}"))
LIBRARY_SCAN = in_process("library page scan, counts by state", "{python}", "{bench}/observe.py", "pages")
LIBRARY_ARRAYS = in_process("library page scan, numpy count", "{python}", "{bench}/observe.py", "arrays")

APART = ("{python}", "{bench}/observe.py", "--apart", "--elapsed")
AS_IT_IS = ("{python}", "{bench}/observe.py", "--elapsed")
LIBRARY_WALK = in_process("library walk of page tables", "{python}", "{bench}/observe.py", "walk")
LIBRARY_SNAPSHOT = in_process("library walk, decoded", "{python}", "{bench}/observe.py", "snapshot")
LIBRARY_KERNEL = in_process("library walk of the kernel half", "{python}", "{bench}/observe.py", "kernel")
LIBRARY_TABLES = in_process("library usage by page tables", "{python}", "{bench}/observe.py", "tables")
LIBRARY_COUNTS = in_process("pagemap and kpagecount, numpy", "{python}", "{bench}/observe.py", "counts")
LIBRARY_ROLLUP = in_process("smaps_rollup in process", "{python}", "{bench}/observe.py", "rollup")

LIBRARY_CENSUS = in_process("library census of all frames", "{python}", "{bench}/observe.py", "census")
LIBRARY_CENSUS_ALL = in_process("library census, nothing skipped", "{python}", "{bench}/observe.py", "census-all")
LIBRARY_NAMES = in_process("library names of 40,000 cached files", "{python}", "{bench}/observe.py", "names")
C_FLAGS = in_process("C sum of kpageflags", "{bin}/frame_words", "1")
C_FRAMES = in_process("C sum of kpageflags, kpagecount, kpagecgroup", "{bin}/frame_words", "3")

CACHE_NOTE = "a look at the whole page cache by file; how many files are in it decides how long it takes"
GENTLE = "the default source holds up the target for no more than --max-stall"
CENSUS_NOTE = "kind and map state of every frame of RAM; how much of it is in use decides how much is skipped"
THP_NOTE = "of huge pages smaps is nearly free: what is left is our start"
APART_NOTE = "with the rights of a broker; by the clock, since that does a part of the work"
START_NOTE = "from the start of the interpreter to the first walk, numpy and all; cold is without a cache of offsets"
PAGES_NOTE = "it took 5.7 times the loop; the bar is what 0.9 s in place of 3.3 s come to"
COUNTED_NOTE = "counted in the kernel, from Linux 6.3 on"
SCREEN_NOTE = "the first screen takes two seconds at most, and names who was left out: the row must have all of them"
SHARE_NOTE = "with whatever else runs on the machine; the CPU time includes that of the children that read"
LIST_NOTE = "equal columns; what others run on the machine is listed as well, by all"
PAUSES_NOTE = "9 million pages are read with pauses, so that whoever has them runs on"
TINY_NOTE = "on a tiny process the start of the interpreter is all there is: we expect to lose"

JOBS = (
    Job(
        "usage",
        ANON4K,
        mematlas("usage", "--source", "smaps", "{pid}"),
        (Peer(CAT_ROLLUP, 1.5), Peer(PSUTIL, 0.75)),
    ),
    Job(
        "maps",
        ANON4K,
        mematlas("maps", "--source", "smaps", "{pid}"),
        (Peer(CAT_ROLLUP, 1.3), Peer(PMAP, 0.8)),
    ),
    Job("usage-default", ANON4K, mematlas("usage", "{pid}"), (Peer(CAT_ROLLUP, 1.6), Peer(PSUTIL, 0.95)), note=GENTLE),
    Job("maps-default", ANON4K, mematlas("maps", "{pid}"), (Peer(CAT_ROLLUP), Peer(PMAP, 0.9)), note=GENTLE),
    Job("scan-4k", ANON4K, LIBRARY_SCAN, (Peer(C_PREAD, 1.10),)),
    Job("scan-4k-numpy", ANON4K, LIBRARY_ARRAYS, (Peer(C_PREAD),)),
    Job("usage-thp", THP, mematlas("usage", "{pid}"), (Peer(PYTHON_ROLLUP, 1.3), Peer(PSUTIL)), note=THP_NOTE),
    Job("maps-thp", THP, mematlas("maps", "{pid}"), (Peer(PYTHON_ROLLUP, 1.3), Peer(PMAP)), note=THP_NOTE),
    Job("scan-thp", THP, LIBRARY_SCAN, (Peer(C_PREAD, 1.4),)),
    Job("scan-thp-numpy", THP, LIBRARY_ARRAYS, (Peer(C_PREAD),)),
    Job("sparse-maps", SPARSE, mematlas("maps", "{pid}"), (Peer(C_SCAN, 5.0),), peak_bar=60 * MIB),
    Job("sparse-hist", SPARSE, mematlas("hist", "{pid}"), (Peer(C_SCAN, 5.0),), peak_bar=60 * MIB),
    Job("usage-1g", ANON1G, mematlas("usage", "{pid}"), (Peer(CAT_ROLLUP, 2.2), Peer(PSUTIL, 0.75)), note=GENTLE),
    Job("maps-1g", ANON1G, mematlas("maps", "{pid}"), (Peer(CAT_ROLLUP), Peer(PMAP, 0.9)), note=GENTLE),
    Job(
        "pages-csv",
        ANON230K,
        mematlas("pages", "--present", "--format", "csv", "{pid}"),
        (Peer(PLAIN_PAGES, 1.5),),
        peak_bar=30 * MIB,
        note=PAGES_NOTE,
    ),
    Job("scattered-usage", SCATTERED, mematlas("usage", "{pid}"), (Peer(CAT_ROLLUP, 3.0),), peak_bar=60 * MIB),
    Job("scattered-maps", SCATTERED, mematlas("maps", "{pid}"), (Peer(CAT_ROLLUP, 3.0),), peak_bar=60 * MIB),
    Job("scattered-hist", SCATTERED, mematlas("hist", "{pid}"), (Peer(CAT_ROLLUP, 3.0),), peak_bar=60 * MIB),
    Job(
        "scattered-pagemap",
        SCATTERED,
        mematlas("usage", "--source", "pagemap", "{pid}"),
        (Peer(CAT_ROLLUP),),
        peak_bar=60 * MIB,
        note="what is left where page tables cannot be counted in the kernel",
    ),
    Job(
        "apart-scan",
        ANON4K,
        in_process("library page scan, apart", *APART, "pages"),
        (Peer(in_process("library page scan", *AS_IT_IS, "pages"), 1.02),),
        note=APART_NOTE,
    ),
    Job(
        "apart-tables",
        ANON1G,
        in_process("library walk of page tables, apart", *APART, "walk"),
        (Peer(in_process("library walk of page tables", *AS_IT_IS, "walk"), 1.3),),
        note=APART_NOTE,
    ),
    Job(
        "apart-start",
        None,
        Command("mematlas --apart usage", ("{mematlas}", "--apart", "usage", "self")),
        (Peer(Command("mematlas usage", ("{mematlas}", "usage", "self"))),),
        note="what the split takes is the difference, of the time from start to end: 8 ms at the most",
    ),
    Job("tables-walk", ANON1G, LIBRARY_WALK, (Peer(C_PREAD, 1 / 8),)),
    Job("tables-snapshot", ANON1G, LIBRARY_SNAPSHOT, (Peer(C_PREAD, 1 / 4),)),
    Job("tables-kernel", ANON1G, LIBRARY_KERNEL, (), cpu_bar_ms=30),
    Job("tables-start-cold", ANON1G, first_walk("cold"), (), cpu_bar_ms=300, note=START_NOTE),
    Job("tables-start-warm", ANON1G, first_walk("warm"), (), cpu_bar_ms=150, note=START_NOTE),
    Job("tables-usage", ANON4K, LIBRARY_TABLES, (Peer(LIBRARY_ROLLUP, 0.6), Peer(LIBRARY_COUNTS, 0.2))),
    Job(
        "usage-tables",
        ANON4K,
        mematlas("usage", "--source", "tables", "{pid}"),
        (Peer(CAT_ROLLUP, 1.5), Peer(PSUTIL, 0.95)),
        peak_bar=24 * MIB,
        note=COUNTED_NOTE,
    ),
    Job("vmas-usage", VMAS, mematlas("usage", "{pid}"), (Peer(CAT_SMAPS, 3.5),), peak_bar=100 * MIB),
    Job("vmas-usage-smaps", VMAS, usage_of("smaps"), (Peer(CAT_SMAPS, 4.7),), peak_bar=100 * MIB),
    Job("vmas-usage-tables", VMAS, usage_of("tables"), (Peer(CAT_SMAPS, 3.5),), peak_bar=100 * MIB),
    Job("vmas-maps", VMAS, mematlas("maps", "{pid}"), (Peer(CAT_SMAPS, 5.3), Peer(PMAP)), peak_bar=100 * MIB),
    Job("vmas-verify", VMAS, mematlas("usage", "--verify", "{pid}"), (Peer(CAT_SMAPS, 14.7),), peak_bar=100 * MIB),
    Job("ps-90", NINETY, LIST, (Peer(SMEM, 0.22), Peer(PSUTIL_LOOP, 0.5), Peer(C_LOOP)), note=LIST_NOTE),
    Job("ps-1000", THOUSAND, LIST, (Peer(SMEM, 0.2), Peer(PSUTIL_LOOP, 0.75), Peer(C_LOOP)), note=LIST_NOTE),
    Job("screen-sleepers", SLEEPERS, first_screen("victim (5,001)"), (), cpu_bar_ms=1500, note=SCREEN_NOTE),
    Job("screen-backends", BACKENDS, first_screen("victim (61)"), (), wall_bar_ms=1000, note=SCREEN_NOTE),
    Job("share-100", HUNDRED, share_of(100), (), peak_bar=150 * MIB, wall_bar_ms=2000, note=SHARE_NOTE),
    Job("owner-100", HUNDRED, owner_of(100), (), cpu_bar_ms=500, note=SHARE_NOTE),
    Job("share-backends", BACKENDS, share_of(61), (), peak_bar=150 * MIB, cpu_bar_ms=3000, note=PAUSES_NOTE),
    Job(
        "census",
        ANON1G,
        LIBRARY_CENSUS,
        (Peer(C_FLAGS, 1 / 8), Peer(C_FRAMES, 1 / 20)),
        peak_bar=150 * MIB,
        note=CENSUS_NOTE,
    ),
    Job(
        "census-all",
        ANON1G,
        LIBRARY_CENSUS_ALL,
        (Peer(C_FLAGS, 1 / 4), Peer(C_FRAMES, 1 / 10)),
        peak_bar=150 * MIB,
        note=CENSUS_NOTE,
    ),
    Job("ram", ANON1G, mematlas("ram"), (Peer(C_FLAGS, 1 / 2.5), Peer(C_FRAMES, 1 / 6)), peak_bar=150 * MIB),
    Job("cache", ANON1G, mematlas("cache"), (Peer(C_FLAGS),), note=CACHE_NOTE),
    Job("cache-names", ANON1G, LIBRARY_NAMES, (Peer(C_FLAGS, 1 / 4),), cpu_bar_ms=120, note=CACHE_NOTE),
    Job("tiny", TINY, mematlas("usage", "{pid}"), (Peer(CAT_ROLLUP), Peer(PMAP)), note=TINY_NOTE),
    Job("help", None, mematlas("--help"), (Peer(PASS, 2.5),)),
)

STALL, STALL_SCATTERED = "stall", "stall-scattered"
"""The jobs that measure the target instead of us (stall.py)."""
