"""What struct pages lead to, in kernel memory made by hand; and that nothing is told of what changed meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mematlas.arrays import Bools, Words
from mematlas.kernel.memory.btf import StructLayout
from mematlas.kernel.memory.pageobjects import PageObjects

SIZE = 64
BASE = 0xFFFFEA0000000000
HEAP = 0xFFFF888000000000
CACHE, NAME, MAPPING, INODE, SUPER = (HEAP + (1 + number) * 0x1000 for number in range(5))
LAYOUT = {
    "page": SIZE,
    "page._mapcount": 48,
    "page.private": 40,
    "slab.slab_cache": 8,
    "folio.mapping": 24,
    "folio.index": 32,
    "kmem_cache.name": 96,
    "address_space.host": 0,
    "inode.i_mapping": 48,
    "inode.i_ino": 64,
    "inode.i_sb": 40,
    "super_block.s_dev": 16,
}
BUDDY = 0xF0 << 24


class ConstructedMemory:
    """What `PageObjects` asks of kernel memory: words by address, each read of which can change something."""

    def __init__(self) -> None:
        self.layout = StructLayout(dict(LAYOUT))
        self.words: dict[int, int] = {}
        self.texts: dict[int, bytes] = {}
        self.after: Callable[[int], None] = lambda address: None

    def frame_words(self, addresses: Words) -> tuple[Words, Bools]:
        return self.object_words(addresses)

    def object_words(self, addresses: Words) -> tuple[Words, Bools]:
        values = []
        for address in addresses.tolist():
            values.append(self.words.get(address, 0))
            self.after(address)
        return np.array(values, np.uint64), np.ones(len(values), np.bool_)

    def object_text(self, address: int, size: int) -> bytes:
        return self.texts.get(address, b"")[:size]

    def put(self, pfn: int, name: str, value: int) -> None:
        self.words[BASE + pfn * SIZE + LAYOUT[name]] = value


class Pages:
    """The array of struct pages, as far as it is asked."""

    def __init__(self, memory: ConstructedMemory) -> None:
        self.memory, self.base, self.size = memory, BASE, SIZE


@pytest.fixture
def memory() -> ConstructedMemory:
    return ConstructedMemory()


def objects_of(memory: ConstructedMemory) -> PageObjects:
    return PageObjects(Pages(memory))  # type: ignore[arg-type]


def frames(*pfns: int) -> Words:
    return np.array(pfns, np.uint64)


def test_each_frame_of_a_free_block_is_known_by_the_first(memory: ConstructedMemory) -> None:
    for pfn in range(64):
        memory.put(pfn, "page._mapcount", 0xFFFFFFFF)
    for first, order in ((16, 3), (24, 0), (32, 5)):
        memory.put(first, "page._mapcount", BUDDY)
        memory.put(first, "page.private", order)

    assert objects_of(memory).free_blocks(frames(16, 23, 24, 25, 63)) == [(16, 3), (16, 3), (24, 0), None, (32, 5)]


def make_slab(memory: ConstructedMemory, pfn: int, name: bytes) -> None:
    memory.put(pfn, "slab.slab_cache", CACHE)
    memory.words[CACHE + LAYOUT["kmem_cache.name"]] = NAME
    memory.texts[NAME] = name


def test_a_slab_is_of_the_cache_it_points_to(memory: ConstructedMemory) -> None:
    make_slab(memory, 5, b"dentry\0junk")

    assert objects_of(memory).slab_caches(frames(5), frozenset({"dentry"})) == ["dentry"]


@pytest.mark.parametrize("text", [b"secret\0", b"dentry", b"", b"\xff\0", b"dentr\0y"])
def test_no_name_is_told_that_is_not_known_from_elsewhere(memory: ConstructedMemory, text: bytes) -> None:
    make_slab(memory, 5, text)

    assert objects_of(memory).slab_caches(frames(5), frozenset({"dentry"})) == [None]


def test_a_slab_that_is_freed_meanwhile_is_of_nothing(memory: ConstructedMemory) -> None:
    make_slab(memory, 5, b"dentry\0")
    memory.after = lambda address: memory.put(5, "slab.slab_cache", 0x1234)

    assert objects_of(memory).slab_caches(frames(5), frozenset({"dentry"})) == [None]


def make_file(memory: ConstructedMemory, pfn: int) -> None:
    memory.put(pfn, "folio.mapping", MAPPING)
    memory.put(pfn, "folio.index", 7)
    memory.words |= {
        MAPPING + LAYOUT["address_space.host"]: INODE,
        INODE + LAYOUT["inode.i_mapping"]: MAPPING,
        INODE + LAYOUT["inode.i_ino"]: 4211,
        INODE + LAYOUT["inode.i_sb"]: SUPER,
        SUPER + LAYOUT["super_block.s_dev"]: 0xABCD_0000_0000 | 254 << 20 | 3,
    }


def test_a_page_is_of_the_file_that_its_mapping_belongs_to(memory: ConstructedMemory) -> None:
    make_file(memory, 5)

    assert objects_of(memory).files(frames(5, 6)) == [(254 << 20 | 3, 4211, 7), None]


@pytest.mark.parametrize("flag", [1, 2, 3])
def test_memory_without_a_file_is_of_none(memory: ConstructedMemory, flag: int) -> None:
    make_file(memory, 5)
    memory.put(5, "folio.mapping", MAPPING | flag)

    assert objects_of(memory).files(frames(5)) == [None]


@pytest.mark.parametrize(
    "changed",
    [
        BASE + 5 * SIZE + LAYOUT["folio.mapping"],
        BASE + 5 * SIZE + LAYOUT["folio.index"],
        MAPPING + LAYOUT["address_space.host"],
        INODE + LAYOUT["inode.i_mapping"],
        INODE + LAYOUT["inode.i_ino"],
        SUPER + LAYOUT["super_block.s_dev"],
    ],
)
def test_nothing_is_told_of_a_file_where_any_of_it_changed(memory: ConstructedMemory, changed: int) -> None:
    make_file(memory, 5)

    def change(address: int) -> None:
        if address == changed:
            memory.words[changed] ^= 1 << 12

    memory.after = change
    assert objects_of(memory).files(frames(5)) == [None]


def test_an_inode_that_is_of_another_mapping_is_not_told(memory: ConstructedMemory) -> None:
    make_file(memory, 5)
    memory.words[INODE + LAYOUT["inode.i_mapping"]] = MAPPING + 0x1000

    assert objects_of(memory).files(frames(5)) == [None]
