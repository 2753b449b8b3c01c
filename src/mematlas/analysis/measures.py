"""Amounts by name, as a program or a person asks for them: of one process, or of several as one."""

from __future__ import annotations

from mematlas.analysis.results import Counters, UsageResult
from mematlas.analysis.usage import Usage
from mematlas.frozen import as_dict, fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from mematlas.analysis.results import Reading
    from mematlas.analysis.set_usage import SetUsage

SIZE, COUNT = "size", "count"
OF_GROUP = ("rss", "anon", "file", "shmem", "pss", "uss", "swap", "hugetlb", "tables", "rss_sum", "nr_processes")
OF_CGROUP = ("charged", "limit", "headroom")
OF_PROCESS = (*fields_of(Usage), "tables", *fields_of(Counters))
MEASURES = {
    name: COUNT if name.startswith("nr_") else SIZE for name in dict.fromkeys((*OF_PROCESS, *OF_GROUP, *OF_CGROUP))
}
"""Every name, with what it counts: bytes, or pages and other things."""


def result_of(amounts: Mapping[str, int | None], reading: Reading) -> UsageResult:
    """Return the result of a process of which these are the amounts: see `amounts_of`.

    >>> from mematlas.analysis.results import Reading
    >>> amounts = dict.fromkeys(OF_PROCESS, 4096)
    >>> amounts_of(result_of(amounts, Reading("smaps", 0.0, torn=False, notes=()))) == amounts
    True
    """
    usage, counters = ({name: amounts[name] for name in fields_of(kind)} for kind in (Usage, Counters))
    return UsageResult(Usage(**usage), amounts["tables"], reading, counters=Counters(**counters))  # type: ignore[arg-type]


def amounts_of(result: UsageResult | SetUsage) -> dict[str, int | None]:
    """Return what is known of a process or a group by the names in `MEASURES`; None is "not known"."""
    if isinstance(result, UsageResult):
        counters = as_dict(result.counters) if result.counters else {}
        return as_dict(result.usage) | {"tables": result.tables} | counters
    amounts: dict[str, int | None] = {name: getattr(result, name) for name in OF_GROUP}
    charge = result.charge
    if charge:
        tightest = charge.tightest
        amounts |= {"charged": charge.charged, "headroom": charge.headroom}
        amounts["limit"] = tightest.size if tightest else None
    return amounts
