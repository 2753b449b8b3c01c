"""machine.json of a capture: what machine it is of, and what the process itself could no longer be asked.

It may come from a stranger: what we compute with is checked here, once.
"""

from __future__ import annotations

import json

from mematlas.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_SIZE = 8 << 20
MAX_TEXT = 8192
FILE_KINDS = ("anon", "file", "shmem", "hugetlb", "special")
"""What memory with a file can be; see `mematlas.kernel.maps.KINDS`."""
MIN_PAGE_SIZE, MAX_PAGE_SIZE = 1 << 12, 1 << 20
"""The smallest pages that Linux has, and more than the largest (256 KiB, of PowerPC 44x)."""


class MachineFile(dict[str, "Any"]):
    """What ``machine.json`` says.

    >>> MachineFile({"page_size": 4096})["devices"]
    Traceback (most recent call last):
    mematlas.errors.FormatError: machine.json: expected devices
    """

    path = "machine.json"

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise FormatError(self.path, expected="an object")
        super().__init__(value)
        size = self["page_size"]
        if not (is_power_of_two(size) and MIN_PAGE_SIZE <= size <= MAX_PAGE_SIZE):
            expected = f"a page_size that is a power of two from {MIN_PAGE_SIZE} to {MAX_PAGE_SIZE}"
            raise FormatError(self.path, expected=expected)
        for key, (is_good, expected) in CHECKS.items():
            if key in self and not is_good(self[key]):
                raise FormatError(self.path, expected=f"{key} to be {expected}")
        if "hidden" in self:
            self["hidden"] = frozenset(self["hidden"])  # each VMA is looked up in it

    def __missing__(self, key: str) -> Any:
        raise FormatError(self.path, expected=key)


def parse_machine(data: bytes) -> MachineFile:
    """Return what the text of a ``machine.json`` says."""
    try:
        return MachineFile(json.loads(data))
    except (ValueError, RecursionError):
        raise FormatError(MachineFile.path, expected="JSON") from None


def are_strings(values: object) -> bool:
    """Whether this is a list of texts, none of them endless, and of nothing else."""
    return isinstance(values, list) and all(map(is_text, values))


def is_text(value: object) -> bool:
    """Whether this is a text of a length that can be shown."""
    return isinstance(value, str) and len(value) <= MAX_TEXT


def is_name(value: object) -> bool:
    """Whether this is a text, or unknown."""
    return value is None or is_text(value)


def is_power_of_two(value: object) -> bool:
    """Whether this is a whole number of 64 bits that is a power of two."""
    return type(value) is int and 0 < value < 1 << 64 and not value & value - 1


def is_huge_size(value: object) -> bool:
    """Whether this can be the size of a huge page, or is unknown."""
    return value is None or is_power_of_two(value)


def are_devices(value: object) -> bool:
    """Whether these are devices by the kind of memory that they are."""
    if not isinstance(value, dict):
        return False
    return are_strings(value.get("shmem")) and are_strings(value.get("hugetlb"))


def are_kinds(value: object) -> bool:
    """Whether these are kinds of memory of files, by device and inode."""
    return isinstance(value, dict) and all(map(FILE_KINDS.__contains__, map(str, value.values())))


def are_texts(value: object) -> bool:
    """Whether this is texts by name."""
    return isinstance(value, dict) and are_strings(list(value.values()))


def is_known_or_not(value: object) -> bool:
    """Whether this is yes, no, or unknown."""
    return value is None or isinstance(value, bool)


CHECKS = {
    "host": (is_name, "a text"),
    "kernel": (is_name, "a text"),
    "arch": (is_name, "a text"),
    "huge_size": (is_huge_size, "a power of two or null"),
    "devices": (are_devices, "lists of shmem and hugetlb"),
    "kinds": (are_kinds, "kinds of memory by file"),
    "hidden": (are_strings, "a list of ranges"),
    "paths": (are_texts, "texts by address"),
    "lacks": (are_texts, "texts by file"),
    "unknown_backings": (are_texts, "texts by address"),
    "uncertain": (are_strings, "a list of texts"),
    "is_go": (is_known_or_not, "true, false or null"),
    "soft_dirty": (is_known_or_not, "true, false or null"),
    "tells_ksm": (is_known_or_not, "true, false or null"),
    "average_counts": (is_known_or_not, "true or false"),
    "zero_known": (is_known_or_not, "true or false"),
    "huge_known": (is_known_or_not, "true or false"),
    "huge_estimate": (is_text, "a text"),
    "torn": (is_known_or_not, "true or false"),
    "stopped": (is_known_or_not, "true or false"),
    "redacted": (is_known_or_not, "true or false"),
}
