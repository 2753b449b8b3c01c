"""Every parser of the package, with the real text that its inputs are made of.

A parser of a kernel file that has the bytes of an example in its docstring need not be here; any other that is not
fails `test_every_parser_is_tried`.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import inspect
import json
import os
import pkgutil
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from random import Random

import numpy as np

import mematlas.kernel
from constructed_btf import Builder, sample
from constructed_core import BASE, core
from mematlas import cli
from mematlas.analysis.assertions import parse_assertion
from mematlas.analysis.flag_list import parse_flag_list
from mematlas.analysis.frame_list import parse_frame_flags
from mematlas.analysis.movable import parse_states
from mematlas.analysis.pagetables.entries import parse_flags
from mematlas.cli import frame_words
from mematlas.cli.act_options import parse_amount
from mematlas.cli.command import COMMANDS, load
from mematlas.cli.moments import parse_moment
from mematlas.cli.options import parse_bytes, parse_count, parse_fraction, parse_interval, parse_seconds, parse_width
from mematlas.cli.ps import parse_columns
from mematlas.cli.record import parse_what
from mematlas.errors import Error
from mematlas.kernel import (
    buddyinfo,
    fdinfo,
    kconfig,
    maps,
    meminfo,
    mounts,
    nodes,
    numa_maps,
    smaps,
    status,
    sysvipc,
    zoneinfo,
)
from mematlas.kernel.ksm_stat import parse_ksm_stat, parse_number
from mematlas.kernel.machine import parse_machine
from mematlas.kernel.memory import btf, iomem, kcore, layoutcache
from mematlas.kernel.memory.layoutcache import names_of, values_of
from mematlas.kernel.memory.vmcoreinfo import parse_vmcoreinfo
from mematlas.kernel.rights import parse_id
from mematlas.kernel.smaps_rollup import RollupReader
from mematlas.kernel.swaps import parse_swap, parse_swaps
from mematlas.kernel.vmallocinfo import parse_vmallocinfo
from mematlas.kernel.vmfile import NO_DEVICES
from mematlas.labs import actor, question, score, workload
from mematlas.labs.answers import read_answers
from mematlas.model import address_space, pages
from mematlas.model.pagetables.modes import x86_64
from mematlas.model.target import parse_pid
from mematlas.observe.captures import Redactor
from mematlas.observe.oom import parse_score
from mematlas.observe.recorded import COLUMNS, parse_amounts
from mematlas.observe.recorded_cache import parse_cache
from mematlas.observe.recorded_ram import parse_ram
from mematlas.observe.recorded_tables import parse_tables
from mematlas.timeline.stream import parse_frame
from mematlas.timeline.unpacking import parse_times
from mutation import BINARY, TEXT, Mutation, mutate

CORPUS = Path(__file__).with_name("corpus")
LIVE = {
    **{name: f"/proc/self/{name}" for name in ("maps", "smaps", "stat", "status", "numa_maps", "mountinfo")},
    "shm": "/proc/sysvipc/shm",
    **{name: f"/proc/{name}" for name in ("swaps", "buddyinfo", "meminfo", "zoneinfo", "iomem", "kallsyms")},
}
LIVE_SIZE = 3000
"""Bytes of a file of this kernel that inputs are made of."""
FACTS = {"page_size": 4096, "address": 0x7F0000005000, "nr_pages": 101}


@dataclass(frozen=True)
class Parser:
    """A subject of the engine: a function that takes bytes."""

    name: str
    call: Callable[[bytes], object]
    corpus: tuple[bytes, ...]
    covers: tuple[str, ...]
    """The functions that are tried by it, with their modules."""
    mutations: tuple[Mutation, ...] = TEXT
    allowed: tuple[type[BaseException], ...] = (Error,)
    seconds: float = 2.0

    def make(self, random: Random) -> bytes:
        return mutate(random, self.corpus, self.mutations)

    def run(self, data: bytes) -> None:
        try:
            self.call(data)
        except Error as error:
            str(error)  # its message must not fail either
            raise


def name_of(function: Callable[..., object]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def of_file(name: str, function: Callable[[bytes], object], *others: Callable[..., object], live: bool) -> Parser:
    """Return a parser of a file of the kernel."""
    texts = [(CORPUS / name).read_bytes()]
    if live and name in LIVE:
        with contextlib.suppress(OSError), open(LIVE[name], "rb") as file:
            texts.append(file.read(LIVE_SIZE))
    covers = tuple(map(name_of, (function, *others)))
    return Parser(covers[0].removeprefix("mematlas."), function, tuple(texts), covers)


def of_lines(
    name: str, function: Callable[[Iterable[bytes]], object], *others: Callable[..., object], live: bool
) -> Parser:
    """Return a parser of the lines of a file of the kernel."""
    parser = of_file(name, lambda data: function(data.split(b"\n")), live=live)
    covers = tuple(map(name_of, (function, *others)))
    return replace(parser, name=covers[0].removeprefix("mematlas."), covers=covers)


def of_words(function: Callable[..., object], *texts: str, call: Callable[[str], object] | None = None) -> Parser:
    """Return a parser of what a person types."""
    parse = call or function
    name = name_of(function)
    corpus = tuple(text.encode() for text in texts)
    return Parser(
        name.removeprefix("mematlas."), lambda data: parse(data.decode("utf-8", "surrogateescape")), corpus, (name,)
    )


def of_text(name: str, text: bytes, parse: Callable[[bytes], object], function: Callable[..., object]) -> Parser:
    """Return a parser of a text that stands here."""
    return Parser(name, parse, (text,), (name_of(function),))


def use_fdinfo(data: bytes) -> None:
    """Take the lines of a file for those of a buffer and of a graphics client."""
    fields = fdinfo.parse_fields(data.decode("utf-8", "replace"))
    fdinfo.dmabuf_of(fields)
    fdinfo.drm_client_of(fields)


def read_smaps_text(data: bytes) -> None:
    """Read smaps in two pieces, and find what its lines tell one by one."""
    middle = data.find(b"\n", len(data) // 2)
    texts = [data] if middle < 0 else [data[:middle], data[middle + 1 :]]
    parser = smaps.SmapsParser(NO_DEVICES, sys.maxsize, captured=True)
    found = [entry for batch in parser.batches(texts) for entry in batch]
    if data[:1] in smaps.HEX_DIGITS:
        assert found == smaps.parse_smaps(data.split(b"\n"))


def read_status_lines(data: bytes) -> None:
    found = status.parse_status(data)
    for name in ("VmRSS", "VmLck", "VmPTE", "VmSwap", "HugetlbPages"):
        status.status_bytes(found, name)
    status.numbers_of(found)


def with_path(data: bytes, read: Callable[[str], object]) -> None:
    """Have data read as a file."""
    fd = os.memfd_create("input", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        read(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def read_core(data: bytes) -> None:
    """Read at borders through a core file."""

    def read(path: str) -> None:
        reader = kcore.KcoreReader.open(path)
        try:
            reader.direct_map_bases()
            for segment in reader.segments[:4]:
                near = [segment.start, segment.end - 8, segment.end, 0, (1 << 64) - 8]
                reader.read_batch(np.array([address % (1 << 64) for address in near], np.uint64), 8)
        finally:
            reader.close()

    with_path(data, read)


def find_symbol(data: bytes) -> None:
    with_path(data, lambda path: kcore.find_symbol("init_task", path))


def use_answers(data: bytes) -> None:
    """Read an answers file, and have each answer understood or not."""

    def use(path: str) -> None:
        for lesson, given in read_answers(path, None):
            for step in lesson.steps:
                given.ask(step.question, FACTS)

    with_path(data, use)


def use_machine(data: bytes) -> None:
    nodes.is_saved(parse_machine(data).get("nodes"))


def use_layout(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        values_of(layoutcache.parse_kept(data), btf.WANTED)


def redact(data: bytes) -> None:
    for name in ("maps", "smaps", "swaps", "stat", "status", "comm", "cmdline"):
        Redactor().redact(name, data)


def parse_words(data: bytes) -> None:
    """Parse a command line, words between zeros, without running it."""
    name, *words = data.decode("utf-8", "surrogateescape").split("\0", 500)  # argparse takes squares of time for more
    if name in COMMANDS:
        cli.parse(name, load(name), words)


MACHINE = {
    "page_size": 4096,
    "devices": {"shmem": ["00:01"], "hugetlb": []},
    "paths": {"7f00": "/a\nb"},
    "unknown_backings": {"7f00-7f01": "why"},
    "uncertain": ["x"],
    "soft_dirty": None,
    "nodes": {"with_memory": [0, 1], "spans": [[0, 100, 0], [200, 300, 1]], "only": None},
}
LAYOUT = dict.fromkeys(names_of(btf.WANTED), 64)
NOTES = struct.pack("=3I4sI", 4, 4, 0x101, b"Xen", 1) + struct.pack("=3I4s20s", 4, 20, 3, b"GNU", b"build")
COMMAND_LINES = (
    "usage\0self\0--by\0kind\0--json",
    "maps\0-p\0self\0--format=csv\0-i\0200ms\0-n\0002",
    "pages\0self\0[heap]\0--runs\0--state\0present,swapped",
    "tables\0self\0--level\0pte\0--flags\0w,!nx",
    "pageout\0self\0--dry-run\0--only\0swap\0--max\00010M",
    "map\0self\0--width\00080\0--color\0never",
)


def deep_types() -> bytes:
    """Type information with unnamed members in unnamed members, a typedef, and a const."""
    made = Builder()
    made.add(1, "int", 4, [(32,)])
    made.add(8, "integer", 1, [])
    for below in range(1, 9):
        made.add(4 + below % 2, "", 8 * below, [(made.name(f"m{below}"), 2, 0), (0, below + 1, 32), (0, below + 1, 64)])
    made.add(10, "", 10, [])
    made.add(4, "page", 64, [(made.name("_mapcount"), 2, 0), (0, 11, 64), (0, 10, 128)])
    return made.build()


def kernel_parsers(live: bool) -> list[Parser]:
    """Return what parses files of the kernel."""
    file, lines = partial(of_file, live=live), partial(of_lines, live=live)
    memory = [(BASE, 4096, b"\1" * 64), (BASE + 4096, 1 << 20, b"\2" * 64), ((1 << 64) - 4096, 0, b"\3" * 8)]
    types, segments, machine = name_of(btf.parse_btf), name_of(kcore.parse_segments), name_of(parse_machine)
    return [
        lines("maps", maps.parse_maps, maps.VmaParser.parse, maps.VmaParser.parse_all),
        lines("smaps", smaps.parse_smaps),
        Parser(
            "kernel.smaps.SmapsParser",
            read_smaps_text,
            ((CORPUS / "smaps").read_bytes(),),
            (name_of(smaps.SmapsParser.batches),),
        ),
        lines("smaps", smaps.parse_vm_flags),
        file("stat", status.parse_stat),
        file("stat", status.parse_faults),
        file("stat", status.parse_layout),
        file("stat", status.parse_data_end),
        Parser(
            "kernel.status.parse_status",
            read_status_lines,
            ((CORPUS / "status").read_bytes(),),
            tuple(name_of(each) for each in (status.parse_status, status.status_bytes, status.numbers_of)),
        ),
        file("shm", sysvipc.parse_segments),
        file("swaps", parse_swaps, parse_swap),
        file("buddyinfo", buddyinfo.parse_buddyinfo),
        file("meminfo", meminfo.parse_meminfo),
        file("ksm_stat", parse_ksm_stat),
        of_text(
            "kernel.vmallocinfo", VMALLOCINFO, lambda data: parse_vmallocinfo(data.split(b"\n")), parse_vmallocinfo
        ),
        of_text("kernel.fdinfo", FDINFO, use_fdinfo, fdinfo.parse_fields),
        Parser("kernel.smaps_rollup.parse", RollupReader().parse, (ROLLUP,), (name_of(RollupReader.parse),)),
        of_words(parse_score, "667", "-1000", call=lambda text: parse_score(text.encode("utf-8", "replace"))),
        of_words(parse_number, "47", call=lambda text: parse_number(text.encode("utf-8", "replace"))),
        file("zoneinfo", zoneinfo.parse_zone_spans),
        lines("numa_maps", numa_maps.parse_numa_maps),
        lines("mountinfo", mounts.parse_mountinfo),
        lines("mountinfo", mounts.parse_options),
        lines("mountinfo", mounts.parse_mounts),
        file("iomem", iomem.parse_iomem),
        file("vmcoreinfo", parse_vmcoreinfo),
        file("config", kconfig.parse_config),
        of_words(nodes.parse_list, "0-3,5", "0", "0-1,3-7,9"),
        Parser("kernel.memory.kcore.find_symbol", find_symbol, ((CORPUS / "kallsyms").read_bytes(),), ()),
        Parser("kernel.memory.kcore.parse_segments", read_core, (core(memory),), (segments,), mutations=BINARY),
        Parser("kernel.memory.btf.parse_btf", btf.parse_btf, (sample(), deep_types()), (types,), mutations=BINARY),
        Parser("kernel.machine.parse_machine", use_machine, (json.dumps(MACHINE).encode(),), (machine,)),
        Parser(
            "kernel.memory.layoutcache.values_of",
            use_layout,
            (layoutcache.text_of(LAYOUT).encode(),),
            (name_of(layoutcache.parse_kept),),
        ),
        Parser(
            "kernel.memory.btf.parse_build_id", btf.parse_build_id, (NOTES,), (name_of(btf.parse_build_id),), BINARY
        ),
        Parser(
            "captures.Redactor.redact",
            redact,
            tuple((CORPUS / name).read_bytes() for name in ("maps", "smaps", "stat", "status", "swaps")),
            (),
        ),
    ]


CACHE_THEN = (
    b'{"files":[["/srv/db","fd:00",7,"ext4",8192,false,4096,0,0,null,null,null,0]],'
    b'"others":[3,8192,4096,0,0,null,null,null,0],"source":"struct pages","notes":[["file-paths","not all"]]}'
)
RAM_THEN = (
    b'{"uses":[["free",2,8192,0,0],["anon",1,4096,null,null]],"nr_frames":3,"size":12288,"page_size":4096,'
    b'"huge_size":2097152,"free_blocks":[0,1],"source":"kpageflags","notes":[["frames-unknown","1 frame changed"]]}'
)
TABLES_THEN = (
    b'{"reader":"bpf","paging":"x86-64, 4 levels","torn":false,"levels":[["pgd",1,4096,2,0],["pud",2,8192,4,2],'
    b'["pmd",2,8192,6,4],["pte",6,24576,456,4]],"leaves":[[1073741824,0,0,0,0,0,0,0,0,0],[2097152,0,0,0,0,0,0,0,0,0],'
    b'[4096,456,20,456,279,454,27,0,0,0]],"others":{"swap":3},"reserve":null,"notes":[["torn","1 table"]]}'
)
AMOUNTS = json.dumps(
    {
        "source": "smaps",
        "torn": False,
        "notes": [["torn", "VMAs changed"]],
        "columns": COLUMNS,
        "vmas": [[4096, 8192, *[4096] * 5, *[None] * (len(COLUMNS) - 5)]],
    }
).encode()


def say(verb: actor.Verb, text: str) -> list[object]:
    """Parse what follows the name of a verb."""
    return verb.parse("do", text.split())


def word_parsers() -> list[Parser]:
    """Return what parses what a person types."""
    mode = x86_64()
    amounts = ("64 KiB", "3 pages", "(address >> 12) * 8", "1,024", "0x1B", "-3", "3-9 MiB", "b", "7 // 0", "5e3 % 7")
    questions: list[question.Number | question.Interval | question.OneOf] = [
        *map(question.Number, ("pages", "bytes", "")),
        *(question.Interval(unit, 4) for unit in ("pages", "bytes")),
        question.OneOf(("one", "two")),
    ]
    return [
        of_words(address_space.parse_kinds, "heap,stack", "anon"),
        of_words(address_space.parse_perms, "rwx", "r--p"),
        of_words(
            address_space.parse_range,
            *("0x1000", "0x1000+8K", "1000-3000", "[heap]"),
            call=lambda text: address_space.parse_range(text, 4096),
        ),
        of_words(address_space.parse_address, "0x7f00", "dead0"),
        of_words(address_space.parse_size, "4K", "0x1000", "2T"),
        of_words(parse_pid, "4211", "cat"),
        of_words(parse_id, "1000", "4294967295"),
        of_words(parse_states, "present,swapped"),
        of_words(parse_columns, "pid,name,pss"),
        of_words(
            parse_flag_list,
            *("w,!nx", "~w"),
            call=lambda text: parse_flag_list(text, {"w": "writable", "nx": "nx"}, "x86-64", ("w", "nx")),
        ),
        of_words(parse_frame_flags, "lru,!dirty,bit_27", "shmem"),
        of_words(parse_flags, "w,!nx,swap", "x", call=lambda text: parse_flags(text, mode)),
        of_words(parse_seconds, "200ms", "1s", "0.5", "5m"),
        of_text(
            "timeline.stream.parse_frame",
            b'{"moment": [[1, 1.8e9, 0.0, 0.01, 0.0]], "vma_end": [[7, 3]], "note": [[1, null, "torn", "torn"]]}',
            parse_frame,
            parse_frame,
        ),
        of_text("observe.recorded.parse_amounts", AMOUNTS, parse_amounts, parse_amounts),
        of_text("observe.recorded_cache.parse_cache", CACHE_THEN, parse_cache, parse_cache),
        of_text("observe.recorded_ram.parse_ram", RAM_THEN, parse_ram, parse_ram),
        of_text("observe.recorded_tables.parse_tables", TABLES_THEN, parse_tables, parse_tables),
        of_words(parse_moment, "shop.mematlas@1.5s:4211", "x.mematlas@3", "kworker@8"),
        of_text("timeline.unpacking.parse_times", b"1.5 1796015000.25", parse_times, parse_times),
        of_words(parse_what, "usage,pages", "frames"),
        of_words(parse_assertion, "uss < 200MiB", "growth(rss) >= -1.5KiB/min", "nr_vmas != 7"),
        of_words(parse_interval, "200ms", "1s", "0.5", "5m", "49ms"),
        of_words(parse_count, "12"),
        of_words(parse_width, "80"),
        of_words(parse_bytes, "512M", "2G"),
        of_words(parse_fraction, "0.01", "1%"),
        of_words(
            frame_words.parse_frames,
            "pfn:0x10+4",
            "pfn:16-20",
            "phys:0x10000",
            call=lambda text: frame_words.parse_frames(text, 4096),
        ),
        of_words(frame_words.parse_numbers, "pfn:0x10+4", "pfn:16"),
        of_words(frame_words.parse_number, "0x10", "16"),
        of_words(
            frame_words.parse_addresses, "phys:0x10000+8K", call=lambda text: frame_words.parse_addresses(text, 4096)
        ),
        of_words(parse_amount, "10M", "50%", "100p"),
        *(of_words(verb.parse, "1000", "7 huge", "1 2 3", call=partial(say, verb)) for verb in actor.VERBS.values()),
        of_words(workload.parse_count, "12", call=lambda text: workload.parse_count(text, 1 << 20)),
        Parser("labs.score.parse_scores", score.parse_scores, (SCORES,), (name_of(score.parse_scores),)),
        Parser("labs.answers.read_answers", use_answers, (ANSWERS,), ()),
        *(
            of_words(question.parse_amount, *amounts, call=partial(question.parse_amount, unit=unit, facts=FACTS))
            for unit in ("pages", "bytes")
        ),
        *(of_words(each.parse, *amounts, call=partial(each.parse, facts=FACTS)) for each in questions),
        Parser(
            "cli.parse",
            parse_words,
            tuple(line.encode() for line in COMMAND_LINES),
            tuple(f"mematlas.cli.{name}" for name in ("parse", "arguments.Arguments.parse")),
        ),
    ]


VMALLOCINFO = (
    b"0x1-0x2   20480 kernel_clone+0xb8/0x400 pages=4 vmalloc N0=4\n"
    b"0x2-0x3    8192 memremap+0x123/0x210 phys=0x00000000000df000 ioremap\n"
    b"0x3-0x4  4198400 xlog_alloc+0x1/0x2 [xfs] pages=1024 vmalloc vpages N0=512 N1=512\n"
)
FDINFO = (
    b"pos:\t0\nino:\t1023\ndrm-driver:\tamdgpu\ndrm-client-id:\t55\ndrm-pdev:\t0000:03:00.0\n"
    b"drm-memory-vram:\t2048 KiB\ndrm-total-gtt:\t12 MiB\nsize:\t4096\ncount:\t2\nexp_name:\tsystem\n"
)
ROLLUP = b"7f00-7fff ---p 00000000 00:00 0    [rollup]\nRss:     8 kB\nPss:     4 kB\nPrivate_Dirty:   4 kB\n"
ANSWERS = b'{"reserve": {"reserved": 0, "touched": "100 pages", "scattered": [1, "3 MiB"], "given_back": "a"}}'
SCORES = b'{"version": 1, "lessons": {"huge": {"right": 3, "asked": 4}, "files": {"right": 0, "asked": 0}}}'


def decode_places(data: bytes) -> None:
    for at in range(0, len(data) - 8, 9):
        pages.decode_place(data[at], int.from_bytes(data[at + 1 : at + 9], "little"))


def all_parsers(live: bool = False) -> Sequence[Parser]:
    """Return every parser; with ``live``, inputs are made of this kernel's own files as well."""
    bits = bytes(part for byte, top in product((0, 0x80, 0x40, 0xFF), (0, 0x7F)) for part in (byte, *[top] * 8))
    places = Parser("model.pages.decode_place", decode_places, (bits,), (), mutations=BINARY)
    listed = [*kernel_parsers(live), *word_parsers(), places]
    return [*listed, *parsers_by_example({name for parser in listed for name in parser.covers})]


def parsers_by_example(listed: set[str]) -> list[Parser]:
    """Return the parsers of kernel files that are not listed, with the text of their own examples."""
    parsers = []
    for module in pkgutil.walk_packages(mematlas.kernel.__path__, "mematlas.kernel."):
        functions = vars(importlib.import_module(module.name)).values()
        for function in functions:
            name = name_of(function) if inspect.isfunction(function) else ""
            if name.startswith(f"{module.name}.parse_") and name not in listed and (texts := examples_of(function)):
                parsers.append(Parser(name.removeprefix("mematlas."), function, texts, (name,)))
    return parsers


def examples_of(function: Callable[..., object]) -> tuple[bytes, ...]:
    """Return the bytes that a function is called with in the examples of its docstring."""
    sources = [example.source for example in doctest.DocTestParser().get_examples(function.__doc__ or "")]
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    arguments = [call.args[0] for call in calls if ast.unparse(call.func) == function.__name__ and len(call.args) == 1]
    return tuple(node.value for node in arguments if isinstance(node, ast.Constant) and isinstance(node.value, bytes))
