"""Reads the names of files that are created, renamed, moved and deleted at full speed meanwhile, and compares.

Run as root, in a mount namespace of its own: ``churn_program.py DIRECTORY READINGS CAREFUL``. The directory is the root
of a file system that nobody else uses. A child churns, and keeps a ledger of all names that each file ever had; what
was read is compared with that in the end. It prints, as JSON, how many names were read, and which were of no file.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import random
import signal
import struct
import sys
from typing import NoReturn

import numpy as np

from mematlas.kernel.memory.inodes import Inodes
from mematlas.kernel.memory.readers import open_kernel_memory
from mematlas.kernel.memory.structpage import StructPages, open_struct_pages
from mematlas.kernel.mounts import format_device

PAGE = mmap.PAGESIZE
ENOUGH, MOST_TIMES = 100, 20
"""Names that are to be found, and how many times more often names are read for that, at the most."""
NR_WATCHED, NR_ALIVE, NR_DIRECTORIES = 384, 64, 5
PFN = (1 << 55) - 1
LENGTHS = (1, 7, 31, 39, 40, 41, 100, 255)
"""Of names: up to 39 bytes they lie in the dentry itself (on 64 bits)."""


class Churner:
    """Creates, renames, moves, links and deletes files and directories; ``ledger`` has each name that a file had."""

    def __init__(self, root: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.root = root
        self.ledger: set[tuple[int, str]] = set()
        self.numbers = itertools.count()
        self.directories = [self.new_name() for _ in range(NR_DIRECTORIES)]
        for name in self.directories:
            os.mkdir(f"{root}/{name}")
            self.note_directory(name)
        self.files: list[tuple[int, str, int]] = []
        """Directory, name, inode."""

    def new_name(self) -> str:
        length = self.random.choice(LENGTHS)
        return f"{next(self.numbers):x}".ljust(length, self.random.choice("abc"))[:255]

    def path(self, directory: int, name: str) -> str:
        return f"{self.root}/{self.directories[directory]}/{name}"

    def note(self, directory: int, name: str, inode: int) -> None:
        self.ledger.add((inode, f"/{self.directories[directory]}/{name}"))

    def note_directory(self, name: str) -> None:
        """Note that a directory, of which we have no other name, is called so: its inode may lie where a file's did."""
        self.ledger.add((os.stat(f"{self.root}/{name}").st_ino, f"/{name}"))

    def create(self) -> None:
        directory, name = self.random.randrange(NR_DIRECTORIES), self.new_name()
        fd = os.open(self.path(directory, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(fd, b"x" * PAGE)
        inode = os.fstat(fd).st_ino
        os.close(fd)
        self.note(directory, name, inode)
        self.files.append((directory, name, inode))

    def take(self) -> tuple[int, str, int]:
        place = self.random.randrange(len(self.files))
        self.files[place], self.files[-1] = self.files[-1], self.files[place]
        return self.files.pop()

    def move(self) -> None:
        directory, name, inode = self.take()
        other, new = self.random.randrange(NR_DIRECTORIES), self.new_name()
        self.note(other, new, inode)
        os.rename(self.path(directory, name), self.path(other, new))
        self.files.append((other, new, inode))

    def link(self) -> None:
        directory, name, inode = self.take()
        new = self.new_name()
        self.note(directory, new, inode)
        os.link(self.path(directory, name), self.path(directory, new))
        os.unlink(self.path(directory, name))
        self.files.append((directory, new, inode))

    def delete(self) -> None:
        directory, name, _ = self.take()
        os.unlink(self.path(directory, name))

    def move_directory(self) -> None:
        directory = self.random.randrange(NR_DIRECTORIES)
        old, new = self.directories[directory], self.new_name()
        for place, name, inode in self.files:
            if place == directory:
                self.ledger.add((inode, f"/{new}/{name}"))
        os.rename(f"{self.root}/{old}", f"{self.root}/{new}")
        self.note_directory(new)
        self.directories[directory] = new

    def step(self) -> None:
        if len(self.files) < NR_ALIVE:
            self.create()
            return
        ways = (self.move, self.link, self.delete, self.delete, self.delete, self.move_directory)
        self.random.choices(ways, (4, 2, 4, 4, 4, 0.2))[0]()


def churn(root: str, out: int) -> NoReturn:
    """Churn until SIGTERM comes; then write the ledger."""
    ends: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ends.append(number))
    churner = Churner(root, seed=7)
    os.write(out, b"\n")
    nr_steps = 0
    while not ends:
        churner.step()
        nr_steps += 1
    with open(out, "w") as file:
        json.dump([nr_steps, sorted(churner.ledger)], file)
    os._exit(0)


def mapping_of(pages: StructPages, path: str) -> int:
    """Return the mapping of a file, by the struct page of a page of it that we map."""
    memory = pages.memory
    at = memory.layout["folio.mapping" if "folio.mapping" in memory.layout else "page.mapping"]
    with open(path, "rb") as file, mmap.mmap(file.fileno(), PAGE, mmap.MAP_SHARED, mmap.PROT_READ) as area:
        assert area[0] == ord("x")
        address = np.frombuffer(area, np.uint8).ctypes.data
        with open("/proc/self/pagemap", "rb") as pagemap:
            pagemap.seek(address // PAGE * 8)
            (entry,) = struct.unpack("=Q", pagemap.read(8))
    words, good = memory.frame_words(np.array([pages.address_of(entry & PFN) + at], np.uint64))
    assert good[0]
    return int(words[0])


def main() -> None:
    root, nr_readings, careful = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "careful"
    with open_kernel_memory() as memory:
        pages = open_struct_pages(memory)
        watched = [f"{root}/watched-{number}" for number in range(NR_WATCHED)]
        for path in watched:
            with open(path, "wb") as file:
                file.write(b"x" * PAGE)
        mappings = np.array([mapping_of(pages, path) for path in watched], np.uint64)
        ledger = {(os.stat(path).st_ino, path.removeprefix(root)) for path in watched}
        # What lies there will be files of the churner's, one after the other.
        for path in watched:
            os.unlink(path)
        lines, out = os.pipe()
        child = os.fork()
        if child == 0:
            churn(root, out)
        os.close(out)
        os.read(lines, 1)
        own = format_device(os.stat(root).st_dev)
        inodes = Inodes(memory, careful)
        seen: set[tuple[int, str]] = set()
        nr_named = nr_files = 0
        for reading in range(MOST_TIMES * nr_readings):
            # Where others make and remove many files theirs may lie there, for a while.
            if reading >= nr_readings and nr_named > ENOUGH:
                break
            table = inodes.of_mappings(mappings)
            systems = inodes.file_systems(table.supers[table.good].tolist())
            found = inodes.paths(table, systems)
            rows = zip(
                *(table.numbers.tolist(), table.supers.tolist(), found.names, found.where, found.is_removed),
                strict=True,
            )
            for number, super_block, name, place, _ in rows:
                if super_block in systems and systems[super_block].dev == own:
                    nr_files += 1
                    if name is not None:
                        nr_named += 1
                        directory = found.directories[place] or b""
                        seen.add((number, os.fsdecode(directory + b"/" + name)))
        os.kill(child, signal.SIGTERM)
        with open(lines) as file:
            nr_steps, rows_of_ledger = json.load(file)
        os.waitpid(child, 0)
    ledger |= {(inode, path) for inode, path in rows_of_ledger}
    wrong = sorted(seen - ledger)
    print(json.dumps({"steps": nr_steps, "files": nr_files, "named": nr_named, "different": len(seen), "wrong": wrong}))


if __name__ == "__main__":
    main()
