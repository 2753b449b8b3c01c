"""/sys/kernel/btf/vmlinux: where the members of the kernel's structures lie.

Format: Documentation/bpf/btf.rst. The file is a header, the types one after another, and their names. A type has
no fixed size, so the types are passed once, from first to last; only the wanted structures are then looked into.
What was found is kept in a small file (`mematlas.kernel.memory.layoutcache`), since the pass is half of the time to
the first page-table entry.
"""

from __future__ import annotations

import os
import struct
import zlib

from mematlas.errors import Error, FormatError, NotSupported, PermissionDenied
from mematlas.kernel.memory.layoutcache import TYPE, LayoutCache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeVar

    T = TypeVar("T")

FITTING = "type information that fits the running kernel"
"""What is missing where the kernel's own structures are not where its types say."""
BTF_PATH = "/sys/kernel/btf/vmlinux"
BTF_MAGIC = 0xEB9F
NOTES_PATH = "/sys/kernel/notes"
MAX_NOTES = 1 << 16
NOTE = struct.Struct("=3I")
NT_GNU_BUILD_ID = 3
"""elf(5), "Notes (Nhdr)"; sysfs shows those of the kernel itself."""
HEADER = struct.Struct("=HBBIIIII")

KIND_STRUCT, KIND_UNION, KIND_ENUM, KIND_FUNC = 4, 5, 6, 12
STRUCTURES = frozenset((KIND_STRUCT, KIND_UNION))
NAMED = STRUCTURES | {KIND_ENUM, KIND_FUNC}
# typedef, volatile, const, restrict, type tag: they stand before the type that is meant.
MODIFIERS = frozenset((8, 9, 10, 11, 18))

# After its three words, a type of each kind has so many words, and so many for each member (btf.rst, section 2.2).
WORDS = {1: 1, 3: 3, 14: 1, 17: 1}
WORDS_EACH = {4: 3, 5: 3, 6: 2, 13: 2, 15: 3, 19: 3}
NR_KINDS = 20
MAX_DEPTH = 32
"""Of types in types, as the kernel's own check has it (kernel/bpf/btf.c, MAX_RESOLVE_DEPTH)."""
MAX_MEMBERS = 1 << 14
"""Of all structures that we look into, with those of their unnamed members: some 500 in Linux 6.18."""

PAGE_FLAGS = (
    *("PG_writeback", "PG_dirty", "PG_head", "PG_reserved", "PG_swapbacked", "PG_lru", "PG_uptodate"),
    *("PG_swapcache", "PG_hwpoison"),
)
PAGE_TYPES = (
    *("PGTY_buddy", "PGTY_offline", "PGTY_table", "PGTY_guard", "PGTY_hugetlb", "PGTY_slab"),
    *("PGTY_zsmalloc", "PGTY_unaccepted", "PGTY_large_kmalloc"),
)

# What mematlas asks of a kernel. A name that this kernel lacks is left out: who needs it says so.
WANTED: Mapping[str, tuple[str, ...]] = {
    "task_struct": ("files", "mm", "tasks", "pid"),
    "files_struct": ("fdt",),
    "fdtable": ("fd",),
    "file": ("private_data",),
    "mm_struct": ("pgd",),
    "pipe_inode_info": ("bufs",),
    "pipe_buffer": ("page",),
    "page": (
        *("compound_head", "compound_info", "_mapcount", "mapping", "_refcount", "pt_share_count"),
        *("flags", "page_type", "private", "memcg_data", "index", "slab_cache"),
    ),
    "ptdesc": ("pt_share_count",),
    "folio": ("_entire_mapcount", "mapping", "_nr_pages_mapped", "_flags_1", "index"),
    # What a frame belongs to that nobody maps: a cache of slabs, a file.
    "slab": ("slab_cache",),
    "kmem_cache": ("name",),
    "address_space": ("host", "nrpages"),
    "inode": ("i_ino", "i_sb", "i_mapping", "i_size", "i_nlink", "i_rdev", "i_dentry", "i_data"),
    "super_block": ("s_dev", "s_id", "s_root"),
    "dentry": ("d_seq", "d_hash", "d_parent", "d_name", "d_inode", "d_sb", "d_alias", "d_u"),
    "qstr": ("name",),
    # Of enumerations the numbers: which bit of page.flags is what, and the types of frames that nobody maps.
    "pageflags": PAGE_FLAGS,
    "pagetype": PAGE_TYPES,
    # No structure: the numbers of types, which a program that reads kernel memory in place needs.
    TYPE: ("page", "bpf_rdonly_cast"),
}


class StructLayout:
    """Offsets in bytes by ``structure.member``, sizes by ``structure``.

    >>> StructLayout({"page": 64, "page._mapcount": 48})["page._mapcount"]
    48
    """

    def __init__(self, values: dict[str, int], cached_from: str | None = None) -> None:
        self.values = values
        self.cached_from = cached_from
        """The BTF file, when the values are not from there but from the cache."""

    def __repr__(self) -> str:
        return f"StructLayout({self.values!r})"

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __getitem__(self, name: str) -> int:
        try:
            return self.values[name]
        except KeyError:
            raise NotSupported(f"a kernel without {name} in its type information") from None

    def share_count(self) -> tuple[int | None, int]:
        """Return where in struct page the number of processes that share a page table lies, and how many it has alone.

        The offset is None where this kernel counts them nowhere.
        """
        # Since commit 59d9094df3d7 (v6.13, and in stable kernels, 6.1.192 among them, before there was a struct ptdesc)
        # shares are counted. Before, each held a reference to the table's page, as its first owner does.
        for name, own in (("ptdesc.pt_share_count", 0), ("page.pt_share_count", 0), ("page._refcount", 1)):
            if name in self.values:
                return self.values[name], own
        return None, 0

    def renew(self) -> None:
        """Read the file itself, where the values came from the cache, and keep what it says."""
        if self.cached_from is not None:
            self.values = read_layout(self.cached_from, afresh=True).values
            self.cached_from = None


def asked_twice(layout: StructLayout, ask: Callable[[], T]) -> T:
    """Return what ``ask`` returns. What is refused with values from the cache is asked once more with fresh ones."""
    values = layout.values
    try:
        return ask()
    except Error:
        layout.renew()
        if layout.values == values:
            raise
    return ask()


class TypeTable:
    """The types of a BTF file: where each begins, and which of them have a wanted name."""

    def __init__(self, data: bytes, wanted: Mapping[str, tuple[str, ...]], path: str = BTF_PATH) -> None:
        self.path = path
        types, self.strings = split_sections(data, path)
        self.words = memoryview(types).cast("I").tolist()
        names = {*wanted, *wanted.get(TYPE, ())} - {TYPE}
        offsets = ((self._offset_of(name), name) for name in names)
        wanted_names = {offset: name for offset, name in offsets if offset is not None}
        self.starts, self.named = self._index(wanted_names)
        self.nr_passed = 0

    def _offset_of(self, name: str) -> int | None:
        # Names may share their tails, but the kernel's own de-duplication writes whole names only once.
        offset = self.strings.find(b"\0" + name.encode() + b"\0")
        return offset + 1 if offset >= 0 else None

    def _index(self, wanted: dict[int, str]) -> tuple[list[int], dict[str, int]]:
        """Return where each type begins, and the number of each whose name, by its offset, is wanted."""
        words, end = self.words, len(self.words)
        fixed = [3 + WORDS.get(kind, 0) for kind in range(NR_KINDS)] + [0] * (32 - NR_KINDS)
        sizes = [WORDS_EACH.get(kind, 0) for kind in range(32)]
        starts = [0]
        named: dict[str, int] = {}
        at = 0
        try:
            while at < end:
                info = words[at + 1]
                kind = info >> 24 & 0x1F
                size = fixed[kind] + sizes[kind] * (info & 0xFFFF)
                if not size:
                    raise FormatError(self.path, f"type {len(starts)} of kind {kind}")
                if words[at] in wanted and kind in NAMED:
                    named.setdefault(wanted[words[at]], len(starts))
                starts.append(at)
                at += size
        except IndexError:
            raise FormatError(self.path, f"type {len(starts)} reaches past the end") from None
        if at != end:
            raise FormatError(self.path, f"type {len(starts) - 1} reaches past the end")
        return starts, named

    def name_at(self, offset: int) -> str:
        """Return the name at an offset into the strings, which end with a zero."""
        if offset >= len(self.strings):
            raise FormatError(self.path, f"a name at {offset} of {len(self.strings)} bytes")
        return self.strings[offset : self.strings.index(b"\0", offset)].decode("utf-8", "replace")

    def start_of(self, type_id: int) -> int:
        """Return the index of the first word of a type."""
        if not 0 < type_id < len(self.starts):
            raise FormatError(self.path, f"type {type_id} of {len(self.starts)}")
        return self.starts[type_id]

    def members(self, type_id: int, base: int = 0, depth: int = 0) -> Iterator[tuple[str, int]]:
        """Yield the name and the byte offset of each member; those of unnamed members count as one's own."""
        at = self.start_of(type_id)
        words, info = self.words, self.words[at + 1]
        if info >> 24 & 0x1F not in STRUCTURES:
            return
        for index in range(at + 3, at + 3 + 3 * (info & 0xFFFF), 3):
            self.nr_passed += 1
            if self.nr_passed > MAX_MEMBERS:
                raise FormatError(self.path, f"more than {MAX_MEMBERS} members")
            # With the flag, the upper byte holds the size of a bit field.
            offset = base + (words[index + 2] & (0xFFFFFF if info >> 31 else 0xFFFFFFFF)) // 8
            if words[index]:
                yield self.name_at(words[index]), offset
            else:
                yield from self._unnamed(words[index + 1], offset, depth + 1)

    def enumerators(self, type_id: int) -> Iterator[tuple[str, int]]:
        """Yield the name and the number of each item of an enumeration; nothing of another type."""
        at = self.start_of(type_id)
        words, info = self.words, self.words[at + 1]
        if info >> 24 & 0x1F == KIND_ENUM:
            for index in range(at + 3, at + 3 + 2 * (info & 0xFFFF), 2):
                yield self.name_at(words[index]), words[index + 1]

    def _unnamed(self, type_id: int, offset: int, depth: int) -> Iterator[tuple[str, int]]:
        # A type may be made of itself, in a file that no kernel wrote.
        while depth <= MAX_DEPTH:
            at = self.start_of(type_id)
            kind = self.words[at + 1] >> 24 & 0x1F
            if kind in STRUCTURES:
                yield from self.members(type_id, offset, depth)
            if kind not in MODIFIERS:
                return
            type_id = self.words[at + 2]
            depth += 1
        raise FormatError(self.path, f"types more than {MAX_DEPTH} deep")


def split_sections(data: bytes, path: str) -> tuple[bytes, bytes]:
    """Return the sections of the types and of the strings."""
    if len(data) < HEADER.size:
        raise FormatError(path, repr(data))
    magic, version, _, header_size, type_start, type_size, string_start, string_size = HEADER.unpack_from(data)
    if magic != BTF_MAGIC or version != 1:
        raise FormatError(path, f"magic {magic:#x}, version {version}")
    types = data[header_size + type_start :][:type_size]
    strings = data[header_size + string_start :][:string_size]
    if len(types) != type_size or len(strings) != string_size:
        raise FormatError(path, f"{len(data)} bytes for {type_size} of types and {string_size} of strings")
    if type_size % 4 or strings[-1:] != b"\0":
        raise FormatError(path, f"{type_size} bytes of types, and strings that do not end")
    return types, strings


def parse_btf(data: bytes, wanted: Mapping[str, tuple[str, ...]] = WANTED, path: str = BTF_PATH) -> dict[str, int]:
    """Return the wanted sizes and offsets, by name, as `StructLayout` describes them.

    >>> parse_btf(open("/sys/kernel/btf/vmlinux", "rb").read(), {"page": ("_mapcount",)})  # doctest: +SKIP
    {'page': 64, 'page._mapcount': 48}
    """
    table = TypeTable(data, wanted, path)
    values: dict[str, int] = {}
    for name, type_id in table.named.items():
        if name in wanted.get(TYPE, ()):
            values[f"{TYPE}.{name}"] = type_id
        if name not in wanted:
            continue
        values[name] = table.words[table.starts[type_id] + 2]
        for find in (table.members, table.enumerators):
            values.update((f"{name}.{member}", value) for member, value in find(type_id) if member in wanted[name])
    return values


def read_layout(path: str = BTF_PATH, afresh: bool = False) -> StructLayout:
    """Return the layout of the running kernel, from the cache when it holds this very BTF.

    With ``afresh`` the cache is not read, but written.

    Raises:
        NotSupported: the kernel was built without CONFIG_DEBUG_INFO_BTF.

    >>> read_layout()["mm_struct.pgd"]  # doctest: +SKIP
    120
    """
    data = b""
    key = build_key() if path == BTF_PATH else None
    if key is None:
        data = read_btf(path)
        key = f"{os.uname().release}-{len(data):x}-{zlib.crc32(data):08x}"
    cache = LayoutCache.open()
    try:
        values = cache.load(key, WANTED) if cache and not afresh else None
        if values is not None:
            return StructLayout(values, path)
        values = parse_btf(data or read_btf(path), WANTED, path)
        if cache:
            cache.store(key, values, WANTED)
        return StructLayout(values)
    finally:
        if cache:
            cache.close()


def build_key() -> str | None:
    """Return what stands for the running kernel's build, types and all; None where it does not say.

    It is 20 bytes to read, where the file of types is some megabytes.
    """
    try:
        with open(NOTES_PATH, "rb") as file:
            build = parse_build_id(file.read(MAX_NOTES))
    except OSError:
        return None
    return build and f"{os.uname().release}-build-{build}"


def parse_build_id(notes: bytes) -> str | None:
    """Return the build ID in the notes of an ELF file, in hexadecimal; None where there is none of 16 to 64 bytes."""
    at = 0
    while at + NOTE.size <= len(notes):
        name_size, size, kind = NOTE.unpack_from(notes, at)
        name_at = at + NOTE.size
        data_at = name_at + -(-name_size // 4) * 4
        data = notes[data_at : data_at + size]
        is_build_id = kind == NT_GNU_BUILD_ID and notes[name_at:data_at] == b"GNU\0"
        if is_build_id and 16 <= len(data) == size <= 64:
            return data.hex()
        at = data_at + -(-size // 4) * 4
    return None


def read_btf(path: str = BTF_PATH) -> bytes:
    """Return the BTF file, whole."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except FileNotFoundError:
        has_sysfs = os.path.isdir(os.path.dirname(os.path.dirname(BTF_PATH)))
        needs = "CONFIG_DEBUG_INFO_BTF" if has_sysfs else "sysfs mounted on /sys"
        raise NotSupported(path, needs) from None
    except PermissionError:
        raise PermissionDenied(path) from None
