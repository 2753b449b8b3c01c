"""Make the table of docs/kernel-interfaces.md, feature by kernel and processor, from what the guests' doctor said.

    .venv/bin/python scripts/kernel_table.py              write the table
    .venv/bin/python scripts/kernel_table.py --collect    take over what the last runs in guests left, then write it

Each run of tests/guest/test_doctor_here.py leaves the answers in .cache/guest/results/RUN/doctor.json. What is known of
them is kept in tests/guest/doctors.json, the last answer of each.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "kernel-interfaces.md"
DATA = ROOT / "tests" / "guest" / "doctors.json"
RESULTS = ROOT / ".cache" / "guest" / "results"
BEGIN, END = "<!-- what follows is made by scripts/kernel_table.py -->\n", "<!-- end of what is made -->\n"
ARCHITECTURES = {"x86_64": "x86-64", "aarch64": "arm64"}
CELLS = {"works": "yes", "needs": "yes", "missing": "-", "unknown": "?"}
"""What needs a right or a setting is there: the kernel has it."""
OURS = ("mematlas module",)
"""What is no feature of a kernel."""

Answers = dict[str, Any]


def main(words: list[str]) -> int:
    if words not in ([], ["--collect"]):
        print(f"{Path(__file__).name} takes --collect or nothing", file=sys.stderr)
        return 2
    kernels = json.loads(DATA.read_text()) if DATA.exists() else []
    if words:
        kernels = merged(kernels, [summary(json.loads(path.read_text())) for path in stock_runs()])
        rows = ",\n".join(json.dumps(kernel) for kernel in kernels)
        DATA.write_text(f"[\n{rows}\n]\n")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(kernels)), encoding="utf-8")
    return 0


def stock_runs() -> Iterator[Path]:
    """Yield the answers of Debian's kernels with nothing withheld."""
    for path in sorted(RESULTS.glob("*/doctor.json")):
        if not re.search(r"own|confidentiality|integrity|locked", path.parent.name):
            yield path


def summary(doctor: Answers) -> Answers:
    """Return what is kept of a doctor's answers."""
    machine = doctor["machine"]
    statuses = {row["interface"]: row["status"] for row in doctor["rows"] if row["interface"] not in OURS}
    kept = {key: machine[key] for key in ("kernel", "arch", "page_size")}
    return {"named": doctor["named"], **kept, "statuses": statuses}


def merged(old: list[Answers], new: list[Answers]) -> list[Answers]:
    """Return both, sorted, one for each kernel that `tests/guest/run` can be asked for: the newer."""
    found = {(kernel["named"], kernel["arch"], kernel["page_size"]): kernel for kernel in [*old, *new]}
    return sorted(
        found.values(), key=lambda kernel: (kernel["arch"] != "x86_64", *version(kernel), kernel["page_size"])
    )


def version(kernel: Answers) -> tuple[int, ...]:
    """Return the version of a kernel, to sort by."""
    return tuple(int(word) for word in re.findall(r"\d+", kernel["kernel"])[:2])


def heading(kernel: Answers) -> str:
    """Return what stands above the column of a kernel.

    >>> heading({"kernel": "6.12.117+deb12-arm64-16k", "arch": "aarch64", "page_size": 16384})
    '6.12 arm64, 16 KiB'
    """
    numbers = ".".join(map(str, version(kernel)))
    size = f", {kernel['page_size'] >> 10} KiB" if kernel["arch"] != "x86_64" else ""
    return f"{numbers} {ARCHITECTURES[kernel['arch']]}{size}"


def table(kernels: list[Answers]) -> str:
    """Return what differs as a table, and what does not as a sentence."""
    interfaces = list(dict.fromkeys(name for kernel in kernels for name in kernel["statuses"]))
    rows = {
        name: [CELLS[kernel["statuses"].get(name, "unknown")] for kernel in kernels]
        for name in sorted(interfaces, key=str.lower)
    }
    differing = {name: row for name, row in rows.items() if set(row) != {"yes"}}
    everywhere = "; ".join(name for name in rows if name not in differing)
    head = ["", *map(heading, kernels)]
    lines = [head, ["---"] * len(head), *([name, *row] for name, row in differing.items())]
    text = "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)
    releases = ", ".join(kernel["kernel"] for kernel in kernels)
    return f"{text}\n{wrapped(f'On all of them: {everywhere}.')}\n{wrapped(f'The kernels: {releases}.')}"


def wrapped(text: str) -> str:
    """Return a paragraph as the page has it."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def with_table(page: str, made: str) -> str:
    """Return the page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        sys.exit(f"{PAGE.name} has no marks for the table")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
