"""What a front end without rights may ask of a broker (`mematlas.kernel.broker`): the questions, by name.

A question is its name and a few parts, with zero bytes between them. Each part has to be what it is declared as: one of
a list, a number in range. The function that answers is the one that is called where nothing is apart.
"""

from __future__ import annotations

import os

from mematlas.frozen import record
from mematlas.kernel.procfs import PAGE_FILES, ProcFS, read_link, stat_link, stat_mapped
from mematlas.kernel.status import read_stat_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mematlas.kernel.procfs import ProcessDir

    Vet = Callable[[bytes], Any]

MOST_DIGITS = 20
PHYS_BITS = 52
MOST_OF_LEAF = 1 << 18
"""Pages of the largest leaf that there is, of 1 GiB."""
MOST_RESIDENT = 1 << 31
"""Bytes of a file of which each page is asked about: of an act that is a block of pages at a time."""

FILES = frozenset(
    (
        *("maps", "smaps", "smaps_rollup", "numa_maps", "pagemap", "status", "stat", "comm", "cmdline", "cgroup"),
        *("mountinfo", "oom_score", "oom_score_adj", "ksm_stat", "ksm_merging_pages", "fd", "task"),
    )
)
"""What is opened of a process. Not mem, which can be written, and shows what is in the memory."""
THREAD_FILES = frozenset(("comm", "stat", "status", "children"))
MACHINE_FILES = frozenset(("slabinfo", "vmallocinfo", "iomem"))
NAMED_LINKS = frozenset(("exe", "ns/ipc", "ns/mnt", "ns/pid", "ns/user"))
WAYS = (os.O_RDONLY, os.O_RDONLY | os.O_DIRECTORY)


class NonsenseError(Exception):
    """A question that no front end asks."""

    question = b"?"
    """Its beginning."""


def number(data: bytes) -> int:
    """Return a number of 64 bits.

    >>> number(b"4211")
    4211
    """
    if not data.isdigit() or len(data) > MOST_DIGITS or (value := int(data)) >> 64:
        raise NonsenseError
    return value


def words(data: bytes) -> bytes:
    """Return numbers of 64 bits, as they are."""
    if len(data) % 8:
        raise NonsenseError
    return data


def pairs(data: bytes) -> bytes:
    """Return numbers of 64 bits, two of each range, as they are."""
    if len(data) % 16:
        raise NonsenseError
    return data


def places(data: bytes) -> bytes:
    """Return numbers of frames, or physical addresses, as they are: no processor has more than 52 bits of them."""
    if any(place >> PHYS_BITS for place in memoryview(words(data)).cast("Q")):
        raise NonsenseError
    return data


def leaves(data: bytes) -> bytes:
    """Return huge leaves as they are: each is its first frame, how many pages, and how many more share its table."""
    numbers = memoryview(words(data)).cast("q").tolist()
    if len(numbers) % 3:
        raise NonsenseError
    for first, nr, shares in zip(*[iter(numbers)] * 3, strict=True):
        if not (0 <= first < 1 << PHYS_BITS and 0 < nr <= MOST_OF_LEAF and -1 <= shares < 1 << 31):
            raise NonsenseError
    return data


def one_of(*names: str) -> Vet:
    """Return what takes one of some texts."""

    def vet(data: bytes) -> str:
        if text(data) not in names:
            raise NonsenseError
        return text(data)

    return vet


def up_to(most: int) -> Vet:
    """Return what takes numbers up to one."""

    def vet(data: bytes) -> int:
        if number(data) > most:
            raise NonsenseError
        return number(data)

    return vet


def optional(vet: Vet) -> Vet:
    """Return what takes nothing as well, for None."""
    return lambda data: vet(data) if data else None


def fraction(data: bytes) -> float:
    """Return a number that need not be whole.

    >>> fraction(b"0.25")
    0.25
    """
    whole, _, rest = data.partition(b".")
    if len(data) > MOST_DIGITS or not (whole + rest).isdigit():
        raise NonsenseError
    return float(data)


def path(data: bytes) -> str:
    """Return a path."""
    return os.fsdecode(data)


def flag(data: bytes) -> bool:
    """Return a yes or no."""
    if data not in (b"0", b"1"):
        raise NonsenseError
    return data == b"1"


def file_name(data: bytes) -> str:
    """Return the name of a file of a process that is opened for a front end."""
    name, sign, rest = text(data).partition("/")
    if sign:
        middle, _, last = rest.partition("/")
        known = (name == "fdinfo" and not last) or (name == "task" and last in THREAD_FILES)
        if not known or not is_decimal(middle):
            raise NonsenseError
    elif name not in FILES:
        raise NonsenseError
    return text(data)


def link_name(data: bytes) -> str:
    """Return the name of a link of a process: of a file that it has open or maps, or one of a list."""
    name, _, rest = text(data).partition("/")
    if name == "map_files":
        span(rest.encode())
    elif text(data) not in NAMED_LINKS and not (name == "fd" and is_decimal(rest)):
        raise NonsenseError
    return text(data)


def span(data: bytes) -> str:
    """Return the name of a link in map_files: two numbers in hexadecimal.

    >>> span(b"7f10-7f20")
    '7f10-7f20'
    """
    for part in text(data).split("-", 1) if b"-" in data else ("",):
        if not part or len(part) > 16 or part.strip("0123456789abcdef"):
            raise NonsenseError
    return text(data)


def spans(data: bytes) -> str:
    """Return the names of some of them, with commas between them."""
    return ",".join(map(span, data.split(b",")))


def advice(data: bytes) -> int:
    """Return one of the advices that are given to processes."""
    from mematlas.kernel.madvise import ADVICE

    if number(data) not in ADVICE.values():
        raise NonsenseError
    return number(data)


def way(data: bytes) -> int:
    """Return how a file is opened: to be read, as a file or as a directory."""
    if number(data) not in WAYS:
        raise NonsenseError
    return number(data)


def text(data: bytes) -> str:
    """Return a text of plain characters."""
    if not data.isascii():
        raise NonsenseError
    return data.decode("ascii")


def is_decimal(name: str) -> bool:
    """Whether a name is a number, as the kernel writes it."""
    return name.isdigit() and len(name) <= MOST_DIGITS


def open_file(process: ProcessDir, name: str, flags: int) -> int:
    """Return a descriptor of a file of a process."""
    return os.open(name, flags | os.O_CLOEXEC, dir_fd=process.fd)


def open_page_file(procfs: ProcFS, name: str) -> int:
    """Return a descriptor of a file that has a word for each frame."""
    return open_machine_file(procfs, name)


def open_machine_file(procfs: ProcFS, name: str) -> int:
    """Return a descriptor of a file of the machine."""
    return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=procfs.fd)


def named(text: str) -> Any:
    """Return what is named ``MODULE:NAME``."""
    module, _, name = text.partition(":")
    return getattr(__import__(module, fromlist=[name]), name)


@record
class Query:
    """What may be asked, and what each part of such a question has to be."""

    function: Callable[..., Any] | str
    """What answers it, given a process or else /proc, and the parts; or its module and name, where few need it."""
    vets: tuple[Vet, ...] = ()
    is_about_process: bool = True
    is_about_everybody: bool = False
    """Whether it tells of others than those it is about: not where only some processes may be looked at."""
    is_act: bool = False
    """Whether it does something, which has to be allowed of this process."""
    is_opening: bool = False
    """Whether the answer is a descriptor."""
    is_stream: bool = False
    """Whether there are many answers, to be sent as they come."""
    is_told: bool = False
    """Whether it asks nothing, and gets no answer: whoever says it goes on."""

    @property
    def name(self) -> str:
        """What it is asked by."""
        return self.function.rpartition(":")[2] if isinstance(self.function, str) else self.function.__name__

    def answering(self) -> Callable[..., Any]:
        """Return what answers it."""
        if not isinstance(self.function, str):
            return self.function
        function: Callable[..., Any] = named(self.function)
        return function


KERNEL = "mematlas.kernel"
QUERIES = (
    Query(open_file, (file_name, way), is_opening=True),
    Query(open_page_file, (one_of(*PAGE_FILES),), is_about_process=False, is_opening=True),
    Query(open_machine_file, (one_of(*MACHINE_FILES),), False, is_about_everybody=True, is_opening=True),
    Query(read_link, (link_name,)),
    Query(stat_link, (link_name,)),
    Query(stat_mapped, (spans,)),
    Query(f"{KERNEL}.vmfile:magic_behind", (link_name,)),
    Query(read_stat_whole),
    Query(f"{KERNEL}.threads:read_syscall", (number,)),
    Query(f"{KERNEL}.threads:robust_list_of", (number,)),
    Query(f"{KERNEL}.elf:program_sections"),
    Query(f"{KERNEL}.backing:parts_of_file", (span, number, number, flag)),
    Query(f"{KERNEL}.backing:pages_of_link", (link_name,)),
    Query(f"{KERNEL}.kcmp:compare_memory", (number,), is_about_everybody=True),
    Query(f"{KERNEL}.backing:resident_pages", (span, number, up_to(MOST_RESIDENT))),
    Query(f"{KERNEL}.madvise:give_advice", (advice, pairs), is_act=True),
    Query(f"{KERNEL}.madvise:touch_pages", (words,), is_act=True),
)
"""What a front end asks of processes and of the machine; who starts a broker may add to them."""
