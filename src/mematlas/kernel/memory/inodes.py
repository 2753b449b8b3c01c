"""struct inode, struct dentry: which file a page of the page cache is of, and what that file is called.

A page leads to its mapping (struct address_space), which is part of an inode; that leads to its names (struct dentry),
each of which leads to the directory that it is in. All of it is read while it changes, and whatever was freed is soon
something else. So a file is given out only if its mapping and its inode point at each other, and a name only if the
whole chain up to the root of its file system was the same when it was read a second time, after all else: the sequence
count of each part even and unchanged, and the file still the one of that name. Then there was a moment at which it was
called so. A name has the length that it says, ends there, and has no slash in it. Nothing else of what was read is
given out but numbers: what is no name may be anybody's secret.

Sources: include/linux/fs.h, include/linux/dcache.h; fs/dcache.c (__d_move: d_seq; d_obtain_alias: no place).
"""

from __future__ import annotations

import sys

from mematlas.arrays import Bools, Bytes, NDArray, Words, np
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.kernel.memory.memory import KernelMemory

MAX_NAME = 255
"""NAME_MAX: bytes of a name."""
NAME_SIZE = 264
"""Bytes that are read of a name that lies apart: it, its end, and up to seven bytes before it."""
NR_TOGETHER = 1 << 13
"""Dentries that are read whole together: their names lie in most of them."""
MAX_DEPTH = 1 << 11
"""Directories within directories: more have no path that could be opened (PATH_MAX)."""
MINOR_BITS = 20
"""Of a device number, as the kernel keeps it (include/linux/kdev_t.h)."""
ID_SIZE = 32
"""Bytes of the text that a file system is told by."""
SLASH = b"/"


@record
class FileSystem:
    """A mounted file system, or one of the kernel's own."""

    dev: str
    """Its device, as maps prints it."""
    id: str
    """The name of its disk (``vda``), or its type where it has none (``tmpfs``, ``bdev``)."""
    root: int
    """Where its root directory is."""


@record
class Paths:
    """What files are called: an item for each in ``names``, ``where`` and ``is_removed``."""

    names: list[bytes | None]
    """Without the directory; None where a file has no name now, or what was read of it did not hold. Of memory of the
    kernel's own it says what that is, such as ``memfd:x``."""
    where: list[int]
    """Which of the directories each is in."""
    is_removed: list[bool]
    """Whether it has no name any more: this was the last one."""
    directories: list[bytes | None]
    """Paths from the root of the file system, which is empty itself; None for memory of the kernel's own."""
    supers: list[int]
    """Where the file system of each directory is."""


@record
class FileTable:
    """Files, as columns: an item for each mapping that was asked about."""

    mappings: Words
    inodes: Words
    """Where their inodes are."""
    hosts: Words
    """Where their mappings say that these are."""
    numbers: Words
    supers: Words
    """Where their file systems are."""
    sizes: Words
    nr_links: Words
    devices: Words
    """The number of the device, of a block device's own page cache."""
    names: Words
    """The first of their names, as the inode has it; 0 of those without."""
    good: Bools
    """Which of them are files, by all that was seen."""

    def take(self, rows: NDArray[np.intp]) -> FileTable:
        """Return some of the files, in the order of ``rows``."""
        return FileTable(*(getattr(self, name)[rows] for name in self.__match_args__))

    def put(self, rows: NDArray[np.intp], other: FileTable) -> None:
        """Put what is known of some rows in their places."""
        for name in self.__match_args__:
            getattr(self, name)[rows] = getattr(other, name)


@record
class Members:
    """What dentries are told by, as columns."""

    counts: Words
    """Sequence counts: odd while they change."""
    parents: Words
    inodes: Words
    names: Words
    """Hashes of names, and above these their lengths."""
    pointers: Words
    """Where the names are."""
    supers: Words
    """Where their file systems are."""
    are_hashed: Bools
    """Which of them are found by name."""

    def same(self, other: Members) -> Bools:
        """Return which are the same in both."""
        same: Bools = np.ones(len(self.counts), np.bool_)
        for name in self.__match_args__:
            same &= getattr(self, name) == getattr(other, name)
        return same

    def take(self, rows: Bools) -> Members:
        """Return some of them."""
        return Members(*(getattr(self, name)[rows] for name in self.__match_args__))


def half_of(words: Words, offset: int) -> Words:
    """Return the numbers of 32 bits at a byte offset, given the 64-bit words that they lie in.

    >>> half_of(np.array([7 << 32 | 5], np.uint64), 76).tolist()
    [7]
    """
    shift = 8 * (offset & 7)
    return words >> np.uint64(shift) & np.uint64(0xFFFFFFFF)


def device_name(device: int) -> str:
    """Return a device number of the kernel's own form, as maps prints it.

    >>> device_name(254 << 20 | 1)
    'fe:01'
    """
    return f"{device >> MINOR_BITS:02x}:{device & (1 << MINOR_BITS) - 1:02x}"


class Inodes:
    """The inodes that mappings belong to. ``careful`` off is for a test alone: it shows what the checks are for.

    Raises:
        NotSupported: the type information of this kernel does not have what it takes.
    """

    def __init__(self, memory: KernelMemory, careful: bool = True) -> None:
        self.memory = memory
        self.careful = careful
        layout = memory.layout
        self._data = layout["inode.i_data"]
        self._host = self._data + layout["address_space.host"]
        self._at = {
            name: layout[f"inode.{name}"]
            for name in ("i_ino", "i_sb", "i_mapping", "i_size", "i_nlink", "i_rdev", "i_dentry")
        }
        # A member by itself on Linux 7 (seen on 7.3); before, in a union with others that begin where it does.
        alias = "dentry.d_alias" if "dentry.d_alias" in layout else "dentry.d_u"
        self._alias = layout[alias]
        self._dentry_size = layout["dentry"] & ~7
        self._seq = layout["dentry.d_seq"]
        self._members = [
            self._seq // 8,
            *(layout[f"dentry.{name}"] // 8 for name in ("d_parent", "d_inode", "d_name")),
            (layout["dentry.d_name"] + layout["qstr.name"]) // 8,
            layout["dentry.d_sb"] // 8,
            layout["dentry.d_hash"] // 8 + 1,  # pprev of struct hlist_bl_node
        ]
        """Which words of a dentry tell it: see `Members`."""
        self._super = {name: layout[f"super_block.{name}"] for name in ("s_dev", "s_id", "s_root")}

    def of_mappings(self, mappings: Words) -> FileTable:
        """Return the inodes of mappings, by their addresses, which come out of struct pages."""
        # In nearly every file system the mapping of an inode is a part of it, so that one reading has both.
        inodes = mappings - np.uint64(self._data)
        table = self._read(mappings, inodes)
        apart = np.flatnonzero(~table.good & (table.hosts != inodes) & (table.hosts != 0))
        if apart.size:
            table.put(apart, self._read(mappings[apart], table.hosts[apart], has_host=False))
        return table

    def _read(self, mappings: Words, inodes: Words, has_host: bool = True) -> FileTable:
        start = min(self._at.values()) & ~7
        offsets = [*self._at.values(), *([self._host] if has_host else [])]
        size = (max(offsets) + 8 - start + 7) & ~7
        words, good = self.memory.object_members(
            inodes + np.uint64(start), size, [(offset - start) // 8 for offset in offsets]
        )
        columns = dict(zip((*self._at, "host"), words, strict=False))
        hosts = columns.get("host", inodes)
        # They point at each other, or one of them is not what it was.
        fits = (columns["i_mapping"] == mappings) & (hosts == inodes)
        return FileTable(
            mappings=mappings,
            inodes=inodes,
            hosts=np.where(good, hosts, np.uint64(0)),
            numbers=columns["i_ino"],
            supers=columns["i_sb"],
            sizes=columns["i_size"],
            nr_links=half_of(columns["i_nlink"], self._at["i_nlink"]),
            devices=half_of(columns["i_rdev"], self._at["i_rdev"]),
            names=columns["i_dentry"],
            good=good & fits if self.careful else good,
        )

    def file_systems(self, supers: Iterable[int]) -> dict[int, FileSystem]:
        """Return file systems by the addresses of their struct super_block.

        One that is unmounted may be anybody's memory next. So it is told only if its root is a directory of it, that
        has none above, and all of it is the same when read once more.
        """
        addresses = np.array(sorted(set(supers)), np.uint64)
        first = self._read_systems(addresses)
        if not self.careful:
            return first
        roots = np.array([system.root for system in first.values()], np.uint64)
        members, good = self._read_members(roots)
        good &= (members.supers == np.array(list(first), np.uint64)) & (members.parents == roots)
        second = self._read_systems(addresses)
        pairs = zip(first.items(), good.tolist(), strict=True)
        return {address: system for (address, system), is_good in pairs if is_good and second.get(address) == system}

    def _read_systems(self, addresses: Words) -> dict[int, FileSystem]:
        """Return what can be read at the addresses of file systems."""
        at = self._super
        start = min(at.values()) & ~7
        end = max(at["s_dev"] + 8, at["s_root"] + 8, at["s_id"] + ID_SIZE)
        size = (end - start + 7) & ~7
        words, good = self.memory.objects(addresses + np.uint64(start), size)
        found: dict[int, FileSystem] = {}
        for address, row in zip(addresses[good].tolist(), words[good], strict=True):
            data = row.tobytes()
            device = int.from_bytes(data[at["s_dev"] - start :][:4], sys.byteorder)
            name = data[at["s_id"] - start :][:ID_SIZE].partition(b"\0")[0]
            root = int.from_bytes(data[at["s_root"] - start :][:8], sys.byteorder)
            # It is text of the kernel's: letters, digits, and what stands between them in a device's name.
            text = name.decode("ascii", "replace") if name and name.isascii() else ""
            found[address] = FileSystem(device_name(device), text if text.isprintable() else "", root)
        return found

    def paths(self, table: FileTable, systems: dict[int, FileSystem]) -> Paths:
        """Return what files are called."""
        dentries = np.where(table.good & (table.names != 0), table.names - np.uint64(self._alias), np.uint64(0))
        first, names, good = self._read_names(dentries)
        parents, which = np.unique(np.where(good, first.parents, np.uint64(0)), return_inverse=True)
        above = Directories(self, systems)
        above.read(parents[parents != 0])
        if self.careful:
            # From here on all is read for the second time.
            above.confirm()
            second, again = self._read_members(dentries)
            good &= again & second.same(first) & (first.counts & np.uint64(1) == 0)
            good &= (first.inodes == table.inodes) & (first.supers == table.supers)
            good &= self.are_as_before(table)
        is_removed = table.nr_links == 0
        is_alone = first.parents == dentries
        if self.careful:
            # A name that was removed, of a file that has another.
            good &= first.are_hashed | is_removed | is_alone
        above.put_together()
        roots = [above.path(parent) for parent in parents.tolist()]
        found = np.array([path is not None for path in roots], np.bool_)[which]
        # What is in no directory is memory of the kernel's own. A file of which only its number is known, as of a
        # server that was given a handle, is called by a slash.
        good &= found | is_alone
        rows = zip(names, good.tolist(), is_alone.tolist(), strict=True)
        return Paths(
            names=[name if is_good and (name != SLASH or not alone) else None for name, is_good, alone in rows],
            where=np.where(is_alone, len(roots), which).tolist(),
            is_removed=(is_removed & ~is_alone).tolist(),
            directories=[*roots, None],
            supers=[*(above.super_of(parent) for parent in parents.tolist()), 0],
        )

    def nr_pages(self, mappings: Words) -> tuple[Words, Bools]:
        """Return how many pages of mappings are in the page cache, by their own counters, and which could be read.

        It is a number of the mapping's only if that is one before and afterwards: see `are_as_before`.
        """
        return self.memory.object_words(mappings + np.uint64(self.memory.layout["address_space.nrpages"]))

    def are_as_before(self, table: FileTable) -> Bools:
        """Return which inodes still are what they were, with the same first name and as many of them.

        The number tells a file from one that has come into its place since, name and all.
        """
        again = self._read(table.mappings, table.inodes, has_host=False)
        same: Bools = again.good & (again.numbers == table.numbers)
        same &= (again.names == table.names) & (again.supers == table.supers)
        same &= again.nr_links == table.nr_links
        return same

    def _read_members(self, dentries: Words) -> tuple[Members, Bools]:
        """Return what dentries are told by, and which could be read."""
        size = 8 * (max(self._members) + 1)
        words, good = self.memory.object_members(dentries, size, self._members)
        return self._members_of(words), good

    def _members_of(self, words: Words) -> Members:
        counts, parents, inodes, names, pointers, supers, hashed = words
        return Members(half_of(counts, self._seq), parents, inodes, names, pointers, supers, hashed != 0)

    def _read_names(self, dentries: Words) -> tuple[Members, list[bytes | None], Bools]:
        """Return the same with their names: None where what is there cannot be one."""
        columns = np.zeros((len(self._members), len(dentries)), np.uint64)
        names: list[bytes | None] = []
        good = np.zeros(len(dentries), np.bool_)
        for low in range(0, len(dentries), NR_TOGETHER):
            rows = slice(low, low + NR_TOGETHER)
            words, good[rows] = self.memory.objects(dentries[rows], self._dentry_size)
            columns[:, rows] = words[:, self._members].T
            names += self._names_of(dentries[rows], words, self._members_of(columns[:, rows]), good[rows])
        return self._members_of(columns), names, good

    def _names_of(self, dentries: Words, words: Words, members: Members, good: Bools) -> list[bytes | None]:
        """Return the names of dentries: they lie in them, or apart; None where what is there cannot be one."""
        size = self._dentry_size
        lengths = (members.names >> np.uint64(32)).astype(np.int64)
        offsets = (members.pointers - dentries).astype(np.int64)
        fits = good & (lengths > 0) & (lengths <= MAX_NAME)
        inside = fits & (offsets >= 0) & (offsets + lengths < size)
        names: list[bytes | None] = [None] * len(dentries)
        rows = np.flatnonzero(inside)
        self._cut(names, rows, words[rows], offsets[rows], lengths[rows])
        rows = np.flatnonzero(fits & ~inside)
        pointers = members.pointers[rows]
        texts, read = self.memory.objects(pointers & ~np.uint64(7), NAME_SIZE)
        rows, places = rows[read], (pointers & np.uint64(7)).astype(np.int64)[read]
        self._cut(names, rows, texts[read], places, lengths[rows])
        return names

    def _cut(
        self,
        names: list[bytes | None],
        rows: NDArray[np.intp],
        texts: Words,
        offsets: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        """Put what can be a name into its place: of so many bytes, with a zero behind it, and no other in it."""
        if not len(rows):
            return
        low, high = int(offsets.min()), int((offsets + lengths).max()) + 1
        area = np.ascontiguousarray(texts.view(np.uint8)[:, low:high])
        starts = np.arange(len(rows)) * (high - low) + offsets - low
        ends = starts + lengths
        if self.careful:
            can_be = can_be_names(area.reshape(-1), starts, ends)
            rows, starts, ends = rows[can_be], starts[can_be], ends[can_be]
        data = area.tobytes()
        for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
            names[row] = data[start:end]


def can_be_names(text: Bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Bools:
    """Return which parts of a text can be names: they end at a zero, and have none in them, nor a slash.

    The root has a slash for its name.

    >>> text = np.frombuffer(b"ab\\0/\\0a/b\\0", np.uint8)
    >>> can_be_names(text, np.array([0, 0, 3, 5, 7]), np.array([2, 1, 4, 8, 8])).tolist()
    [True, False, True, False, True]
    """
    is_end, is_slash = text == 0, text == ord(SLASH)
    stops = np.append(np.flatnonzero(is_end | is_slash), len(text))
    can_be: Bools = stops[np.searchsorted(stops, starts)] == ends
    can_be |= (ends - starts == 1) & is_slash[starts]
    can_be &= is_end[ends]
    return can_be


class Directories:
    """Directories with those that they are in, up to the roots: read once, and confirmed by reading them again."""

    def __init__(self, inodes: Inodes, systems: dict[int, FileSystem]) -> None:
        self._inodes = inodes
        self._systems = systems
        self._parts: list[tuple[Words, Members]] = []
        """What was read together: where they are, and what they are told by."""
        self._rows: dict[int, tuple[int, int, bytes | None]] = {}
        """Of each the parent, the file system, and the name."""
        self._paths: dict[int, bytes | None] = {}

    def read(self, addresses: Words) -> None:
        """Read some, and all that they lie in."""
        for _ in range(MAX_DEPTH):
            if not len(addresses):
                return
            members, names, good = self._inodes._read_names(addresses)
            if not good.all():
                addresses, members = addresses[good], members.take(good)
                names = [names[row] for row in np.flatnonzero(good).tolist()]
            self._parts.append((addresses, members))
            above = members.parents.tolist()
            rows = zip(above, members.supers.tolist(), names, strict=True)
            self._rows.update(zip(addresses.tolist(), rows, strict=True))
            addresses = np.array(sorted(set(above) - self._rows.keys() - {0}), np.uint64)

    def confirm(self) -> None:
        """Read all of them once more, and forget what has changed or is changing."""
        for addresses, members in self._parts:
            again, good = self._inodes._read_members(addresses)
            good &= again.same(members) & (members.counts & np.uint64(1) == 0)
            for address in addresses[~good].tolist():
                del self._rows[address]

    def put_together(self) -> None:
        """Make the paths of all: those that others lie in were read last, so that most are one step."""
        rows, paths = self._rows, self._paths
        for addresses, _ in reversed(self._parts):
            for address in addresses.tolist():
                if address in paths or address not in rows:
                    continue
                parent, _, name = rows[address]
                path = paths.get(parent)
                if path is None or name is None:
                    self._climb(address)
                else:
                    paths[address] = path + SLASH + name

    def super_of(self, address: int) -> int:
        """Return where the file system of a directory is; 0 where it is none."""
        row = self._rows.get(address)
        return row[1] if row else 0

    def path(self, address: int) -> bytes | None:
        """Return the path of a directory that was put together; empty for the root, None where none leads there."""
        return self._paths.get(address)

    def _climb(self, address: int) -> None:
        """Make the paths of a directory, and of those that it lies in, up to the root or one that has a path."""
        climbed: list[tuple[int, bytes]] = []
        path: bytes | None = None
        while len(climbed) <= MAX_DEPTH:
            if address in self._paths:
                path = self._paths[address]
                break
            parent, super_block, name = self._rows.get(address, (0, 0, None))
            if name is None:
                break
            if parent == address:
                system = self._systems.get(super_block)
                path = b"" if system and system.root == address else None
                self._paths[address] = path
                break
            climbed.append((address, name))
            address = parent
        for place, name in reversed(climbed):
            path = None if path is None else path + SLASH + name
            self._paths[place] = path
