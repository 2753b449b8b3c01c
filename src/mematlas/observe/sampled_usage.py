"""What a large process uses, estimated from some of its page tables, chosen at random.

What one table of the last level translates is a block. RSS is known: the kernel keeps it. How much of it is the
process's own, and its share of the rest, is counted in the blocks that were chosen. Where memory lies so thinly in its
addresses that most blocks have nothing, or where there is little of it, all is counted.
"""

from __future__ import annotations

import os
from math import ceil

from mematlas.analysis.estimates import RISK, Estimate, Sample
from mematlas.errors import NotSupported
from mematlas.frozen import record, replace
from mematlas.kernel.status import read_memory_status, status_bytes
from mematlas.model.random_blocks import blocks_of, choose
from mematlas.observe.page_counter import PageCounter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from random import Random

    from mematlas.kernel.maps import Vma
    from mematlas.observe.sources import Sources

ENTRY_SIZE = 8
LEFT_OUT = ("hugetlb", "vsyscall")
"""Kinds of which nothing is in RSS."""
MOST_BLOCKS = 4
"""How many times as many bytes there may be in blocks as are resident."""
LEAST_SEEN = 32
"""Blocks that are looked at, at the least: fewer say next to nothing."""


@record
class SampledUsage:
    """What a process uses, in bytes."""

    rss: int
    pss: Estimate
    uss: Estimate
    source: str


def sample_usage(sources: Sources, fraction: float, random: Random, max_stall: float) -> SampledUsage | None:
    """Return what a process uses by so large a part of its blocks; None where all of it is to be counted.

    Raises:
        PermissionDenied: another user's process needs CAP_SYS_PTRACE.
        ProcessGone: it has ended.
    """
    source = sources.choose("auto", max_stall).source
    if source == "smaps":
        return None
    size = sources.page_size * (sources.page_size // ENTRY_SIZE)
    vmas = [vma for vma in sources.address_space().vmas if vma.kind not in LEFT_OUT]
    ranges = blocks_of(((vma.start, vma.end) for vma in vmas), size)
    nr_blocks = sum(map(len, ranges))
    nr_seen = max(ceil(fraction * nr_blocks), LEAST_SEEN)
    rss = resident(sources)
    if nr_seen >= nr_blocks or nr_blocks * size > MOST_BLOCKS * rss:
        return None
    seen = count(sources, source, list(pieces_in(vmas, choose(ranges, nr_seen, random), size)))
    if seen is None:
        return None
    seen_rss, seen_pss, seen_uss = seen
    sample = Sample(nr_blocks, nr_seen, size, nr_blocks * size, nr_seen * size)
    slack = counter_lag() * sources.page_size
    pss, uss = (part_of(rss, amount, seen_rss, sample, slack) for amount in (seen_pss, seen_uss))
    return SampledUsage(rss, pss, uss, source)


def resident(sources: Sources) -> int:
    """Return what the kernel has counted as resident."""
    return status_bytes(read_memory_status(sources.dir), "VmRSS") or 0


def counter_lag() -> int:
    """Return how many pages RSS may be off.

    Since Linux commit f1a7941243c1 ("mm: convert mm's rss stats into percpu_counter") (in v6.2) each CPU keeps up to so
    many for itself, of each of three counters (lib/percpu_counter.c, compute_batch_value()); before, each thread 64.
    """
    nr_cpus = os.cpu_count() or 1
    return 3 * max(32, 2 * nr_cpus) * nr_cpus


def part_of(rss: int, amount: int, seen_rss: int, sample: Sample, slack: int) -> Estimate:
    """Return how much of RSS has some property, given how much of it that was seen has, and all that was seen.

    What has the property lies in an interval, and so does what has not. Whichever is less is known better: where all
    that was seen is the process's own, little can be otherwise.

    >>> part_of(1000, 90, 100, Sample(100, 10, 10, 1000, 100), 0)
    Estimate(value=900, low=530, high=990)
    """
    value = rss * amount // seen_rss if seen_rss else 0
    low, high = sample.interval(amount, RISK / 2)
    least_rest, most_rest = sample.interval(seen_rss - amount, RISK / 2)
    low, high = max(low, rss - slack - most_rest), min(high, rss + slack - least_rest, rss)
    return Estimate(value, min(low, value), max(high, value))


def count(sources: Sources, source: str, pieces: Sequence[Vma]) -> tuple[int, int, int] | None:
    """Return RSS, PSS and USS of parts of VMAs; None where any of them is not known, or the source fails after all."""
    counter = PageCounter(sources.dir, sources.pacer(), False, None)
    try:
        counted = counter.by_tables(pieces, sources) if source == "tables" else counter.by_pagemap(pieces)
    except NotSupported:
        return None
    sums = [0, 0, 0]
    for item in counted:
        for index, amount in enumerate((item.usage.rss, item.usage.pss, item.usage.uss)):
            if amount is None:
                return None
            sums[index] += amount
    return sums[0], sums[1], sums[2]


def pieces_in(vmas: Sequence[Vma], numbers: Iterable[int], size: int) -> Iterator[Vma]:
    """Yield the parts of VMAs that lie in blocks with these numbers, ascending, as VMAs."""
    at = 0
    for number in numbers:
        low, high = number * size, (number + 1) * size
        while vmas[at].end <= low:
            at += 1
        for index in range(at, len(vmas)):
            vma = vmas[index]
            if vma.start >= high:
                break
            start, end = max(vma.start, low), min(vma.end, high)
            offset = vma.offset + start - vma.start if vma.inode else vma.offset
            yield replace(vma, start=start, end=end, offset=offset)
