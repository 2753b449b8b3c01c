"""Names of files in kernel memory: what is one, and what must never be taken for one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mematlas.arrays import Bools, Words
from mematlas.kernel.memory.btf import StructLayout
from mematlas.kernel.memory.inodes import Inodes

LAYOUT = {
    "address_space": 64,
    "address_space.host": 0,
    "qstr": 16,
    "qstr.name": 8,
    "inode": 256,
    "inode.i_sb": 0,
    "inode.i_mapping": 8,
    "inode.i_ino": 16,
    "inode.i_nlink": 24,
    "inode.i_rdev": 28,
    "inode.i_size": 32,
    "inode.i_dentry": 40,
    "inode.i_data": 64,
    "super_block": 128,
    "super_block.s_dev": 4,
    "super_block.s_root": 16,
    "super_block.s_id": 36,
    "dentry": 192,
    "dentry.d_seq": 4,
    "dentry.d_hash": 8,
    "dentry.d_parent": 24,
    "dentry.d_name": 32,
    "dentry.d_inode": 48,
    "dentry.d_sb": 56,
    "dentry.d_u": 64,
}
INLINE = 80
"""Where a short name lies in a dentry."""
SUPER, ROOT, DIRECTORY, FILE, INODE, LONG = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000


class ConstructedMemory:
    """Objects by address. ``script`` has what happens before a reading of one of them."""

    def __init__(self) -> None:
        self.layout = StructLayout(LAYOUT)
        self.bytes = bytearray(0x8000)
        self.unreadable: set[int] = set()
        self.script: dict[int, list[Callable[[], None] | None]] = {}
        self.put(SUPER, 4, "=I", 254 << 20 | 1)
        self.put(SUPER, 16, "=Q", ROOT)
        self.put(SUPER, 36, "4s", b"vda1")
        self.inode()
        self.dentry(ROOT, ROOT, b"/", 0x7000)
        self.dentry(DIRECTORY, ROOT, b"srv", 0x7100)
        self.dentry(FILE, DIRECTORY, b"shop.db", INODE)

    def put(self, address: int, offset: int, form: str, value: Any) -> None:
        struct.pack_into(form, self.bytes, address + offset, value)

    def inode(self, nr_links: int = 1) -> None:
        for name, form, value in (
            *(("i_sb", "=Q", SUPER), ("i_mapping", "=Q", INODE + 64), ("i_ino", "=Q", 77), ("i_nlink", "=I", nr_links)),
            *(("i_rdev", "=I", 0), ("i_size", "=Q", 12345), ("i_dentry", "=Q", FILE + 64), ("i_data", "=Q", INODE)),
        ):
            self.put(INODE, LAYOUT[f"inode.{name}"], form, value)

    def dentry(self, address: int, parent: int, name: bytes, inode: int, *, seq: int = 2, length: int = -1) -> None:
        text = address + INLINE if len(name) < 40 else LONG
        nr_bytes = len(name) if length < 0 else length
        for offset, form, value in (
            *((4, "=I", seq), (16, "=Q", 0xABCD), (24, "=Q", parent), (32, "=Q", nr_bytes << 32 | 0x1234)),
            *((40, "=Q", text), (48, "=Q", inode), (56, "=Q", SUPER)),
        ):
            self.put(address, offset, form, value)
        self.bytes[text : text + len(name) + 1] = name + b"\0"

    def objects(self, addresses: Words, size: int) -> tuple[Words, Bools]:
        rows = np.zeros((len(addresses), size // 8), np.uint64)
        good = np.zeros(len(addresses), np.bool_)
        for index, address in enumerate(addresses.tolist()):
            if self.script.get(address) and (change := self.script[address].pop(0)):
                change()
            if 0 < address <= len(self.bytes) - size and address not in self.unreadable:
                rows[index] = np.frombuffer(self.bytes, np.uint64, size // 8, address)
                good[index] = True
        return rows, good

    def object_members(self, addresses: Words, size: int, indexes: list[int]) -> tuple[Words, Bools]:
        rows, good = self.objects(addresses, size)
        return rows[:, indexes].T, good


def path_in(memory: ConstructedMemory, careful: bool = True) -> tuple[bytes | None, bytes | None, bool] | None:
    """Return the directory and the name of the one file, and whether it is removed; None where it is no file."""
    inodes = Inodes(memory, careful)  # type: ignore[arg-type]
    table = inodes.of_mappings(np.array([INODE + 64], np.uint64))
    if not table.good[0]:
        return None
    systems = inodes.file_systems(table.supers.tolist())
    found = inodes.paths(table, systems)
    return found.directories[found.where[0]], found.names[0], found.is_removed[0]


def test_name_leads_through_its_directories_to_the_root() -> None:
    memory = ConstructedMemory()
    inodes = Inodes(memory)  # type: ignore[arg-type]
    table = inodes.of_mappings(np.array([INODE + 64, 0x100, INODE + 72], np.uint64))

    assert path_in(memory) == (b"/srv", b"shop.db", False)
    assert table.good.tolist() == [True, False, False]
    assert (table.numbers[0], table.sizes[0]) == (77, 12345)
    (system,) = inodes.file_systems([SUPER]).values()
    assert (system.dev, system.id) == ("fe:01", "vda1")


@pytest.mark.parametrize("name", [b"x" * 39, b"x" * 40, b"x" * 255, b"no-utf8-\xff\n"])
def test_names_of_all_lengths_and_bytes(name: bytes) -> None:
    memory = ConstructedMemory()
    memory.dentry(FILE, DIRECTORY, name, INODE)

    assert path_in(memory) == (b"/srv", name, False)


def test_removed_file_and_memory_without_a_directory_say_so() -> None:
    memory = ConstructedMemory()
    memory.inode(nr_links=0)
    memory.put(FILE, 16, "=Q", 0)
    assert path_in(memory) == (b"/srv", b"shop.db", True)
    memory.dentry(FILE, FILE, b"memfd:x", INODE)
    assert path_in(memory) == (None, b"memfd:x", False)


def hide_name(memory: ConstructedMemory) -> None:
    memory.dentry(FILE, DIRECTORY, b"x" * 99, INODE)
    memory.unreadable.add(LONG)


WRONG: dict[str, Callable[[ConstructedMemory], None]] = {
    "a name that is longer than it says": lambda it: it.dentry(FILE, DIRECTORY, b"shop.db", INODE, length=4),
    "a name that ends before": lambda it: it.dentry(FILE, DIRECTORY, b"sh\0p.db", INODE),
    "a name with a slash": lambda it: it.dentry(FILE, DIRECTORY, b"sh/p.db", INODE),
    "a name without a byte": lambda it: it.dentry(FILE, DIRECTORY, b"", INODE),
    "a name that cannot be read": hide_name,
    "a name too long to be one": lambda it: it.dentry(FILE, DIRECTORY, b"x" * 256, INODE),
    "a name that changes now": lambda it: it.dentry(FILE, DIRECTORY, b"shop.db", INODE, seq=3),
    "a directory that changes now": lambda it: it.dentry(DIRECTORY, ROOT, b"srv", 0x7100, seq=3),
    "a name of another file": lambda it: it.dentry(FILE, DIRECTORY, b"shop.db", INODE + 8),
    "a name that was removed, of a file that has others": lambda it: it.put(FILE, 16, "=Q", 0),
    "a root that is not the file system's": lambda it: it.put(SUPER, 16, "=Q", DIRECTORY),
    "a slash for a name, as of a handle": lambda it: it.dentry(FILE, FILE, b"/", INODE),
    "directories in a circle": lambda it: it.dentry(ROOT, DIRECTORY, b"a", 0x7000),
    "another file system": lambda it: it.put(FILE, 56, "=Q", SUPER + 8),
    "no name": lambda it: it.put(INODE, 40, "=Q", 0),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_no_name(what: str) -> None:
    memory = ConstructedMemory()
    WRONG[what](memory)
    found = path_in(memory)

    assert found is not None
    assert found[1] is None


MEANWHILE: dict[str, tuple[int, Callable[[ConstructedMemory], None]]] = {
    "it is renamed": (FILE, lambda it: it.dentry(FILE, DIRECTORY, b"shop.old", INODE, seq=4)),
    "it is renamed to as long a name": (FILE, lambda it: it.dentry(FILE, DIRECTORY, b"SHOP.DB", INODE, seq=4)),
    "its directory is renamed": (DIRECTORY, lambda it: it.dentry(DIRECTORY, ROOT, b"mnt", 0x7100, seq=4)),
    "it goes": (FILE, lambda it: it.dentry(FILE, DIRECTORY, b"shop.db", 0)),
    "it becomes another file": (INODE + 0, lambda it: it.put(INODE, 40, "=Q", DIRECTORY + 64)),
    "a new file comes into its place, name and all": (INODE + 0, lambda it: it.put(INODE, 16, "=Q", 78)),
    "it loses a name": (INODE + 0, lambda it: it.inode(nr_links=2)),
    "its inode becomes another's": (INODE + 0, lambda it: it.put(INODE, 8, "=Q", INODE + 96)),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_name_that_changes_between_two_readings_is_none(what: str) -> None:
    memory = ConstructedMemory()
    place, change = MEANWHILE[what]
    memory.script[place] = [None, lambda: change(memory)]
    found = path_in(memory)

    assert found is not None
    assert found[1] is None


def test_without_the_checks_there_would_be_such_names() -> None:
    memory = ConstructedMemory()
    memory.dentry(FILE, DIRECTORY, b"sh\0p.db", INODE + 8, seq=3)

    found = path_in(memory, careful=False)

    assert found is not None
    assert found[1] == b"sh\0p.db"


UNMOUNTED: dict[str, Callable[[ConstructedMemory], None]] = {
    "what is there now looks like one": lambda it: it.put(SUPER, 36, "8s", b"s3cret\0\0"),
    "its root is of another": lambda it: it.put(ROOT, 56, "=Q", SUPER + 8),
    "its root has a directory above it": lambda it: it.put(ROOT, 24, "=Q", DIRECTORY),
    "it has no root": lambda it: it.put(SUPER, 16, "=Q", 0),
}


@pytest.mark.parametrize("what", UNMOUNTED)
def test_file_system_that_goes_while_it_is_read_is_none(what: str) -> None:
    memory = ConstructedMemory()
    memory.script[SUPER] = [None, lambda: UNMOUNTED[what](memory)]
    memory.script[ROOT] = [lambda: UNMOUNTED[what](memory)]

    assert Inodes(memory).file_systems([SUPER]) == {}  # type: ignore[arg-type]
    UNMOUNTED[what](memory)
    found = Inodes(memory, careful=False).file_systems([SUPER])  # type: ignore[arg-type]
    assert len(found) == 1
