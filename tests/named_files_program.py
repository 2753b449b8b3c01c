"""Makes 2,003 files of all sorts on four file systems, and compares what `cache` says of each with stat and mincore.

Run as root, in a mount namespace of its own: ``named_files_program.py TOP``. TOP is on a disk, with TOP/disk
mounted at TOP/bound as well, and other file systems at TOP/tmpfs and TOP/loop. It prints, as JSON, how many files were
compared, and the first of those that were not what they are.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import subprocess
import sys

from mematlas import CachedFile, Machine
from mematlas.kernel.cachestat import call_mincore
from mematlas.kernel.mounts import format_device

PAGE = mmap.PAGESIZE
NR_FILES = 2003
PRIMES = (1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29)
"""Pages of files."""
PLACES = ("disk", "tmpfs", "loop", "lower", "upper")
SORTS = ("plain", "linked", "renamed", "deleted", "long", "bytes")
MOST_SHOWN = 5


class MadeFile:
    """A file of ours, with what is true of it."""

    def __init__(self, top: str, place: str, sort: str, number: int) -> None:
        self.place, self.nr_pages = place, PRIMES[number % len(PRIMES)]
        # What is made in the merged directory of an overlay lies in the upper one.
        self.directory = f"{top}/{'merged' if place == 'upper' else place}"
        name = {"long": f"{number}-".ljust(255, "x"), "bytes": os.fsdecode(b"\xff\n%d" % number)}.get(
            sort, f"f{number}"
        )
        self.name, self.sort = name, sort
        with open(f"{self.directory}/{name}", "wb") as file:
            file.write(bytes(self.nr_pages * PAGE - number % 7))
        self.names = [name]
        self.is_deleted = False

    def settle(self, number: int) -> None:
        """Give it its other names, or none, and take some of it out of RAM again."""
        path = f"{self.directory}/{self.name}"
        if self.sort == "linked":
            os.link(path, f"{path}-too")
            self.names.append(f"{self.name}-too")
        elif self.sort == "renamed":
            os.rename(path, f"{path}-now")
            self.names = [f"{self.name}-now"]
            path = f"{path}-now"
        self.fd = os.open(path, os.O_RDONLY)
        if self.sort == "deleted":
            os.unlink(path)
            self.is_deleted = True
        if self.place != "tmpfs":  # memory has nowhere to go
            # Of a large folio no part can be dropped: all of it, and what is wanted is read again, page by page.
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)
            for page in range(number % self.nr_pages, self.nr_pages):
                os.pread(self.fd, 1, page * PAGE)

    def nr_in_ram(self) -> int:
        """Return how many of its pages are in RAM."""
        return sum(byte & 1 for byte in call_mincore(self.fd, 0, self.nr_pages * PAGE, PAGE))

    def identify(self, top: str) -> None:
        """Find out what the kernel calls the file that its pages are of."""
        status = os.fstat(self.fd)
        if self.place in ("lower", "upper") and not self.is_deleted:
            status = os.stat(f"{top}/{self.place}/{self.names[0]}")
        self.key = format_device(status.st_dev), status.st_ino
        tops = [f"{top}/{self.place}", *([f"{top}/bound"] if self.place == "disk" else [])]
        self.paths = {f"{one}/{name}" for one in tops for name in self.names}
        self.size = -(-status.st_size // PAGE) * PAGE

    def is_told(self, file: CachedFile | None, nr_in_ram: int) -> bool:
        """Whether all that is said of it is true."""
        if file is None:
            return False
        said = file.resident // PAGE, file.size, file.is_deleted
        return file.path in self.paths and said == (nr_in_ram, self.size, self.is_deleted)


def make_all(top: str) -> list[MadeFile]:
    """Make the files, with an overlay over two of the directories."""
    numbers = itertools.count()
    of_overlay = ("lower", "upper")
    # Who deletes or renames a file below an overlay, or through it, gets another file or none.
    kinds = [pair for pair in itertools.product(PLACES, SORTS) if pair[0] not in of_overlay or pair[1] in SORTS[::4]]
    wanted = [(*kinds[number % len(kinds)], number) for number in itertools.islice(numbers, NR_FILES)]
    made = [MadeFile(top, *each) for each in wanted if each[0] != "upper"]
    layers = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
    subprocess.run(["mount", "-t", "overlay", "none", "-o", layers, f"{top}/merged"], check=True)
    for file in made:
        if file.place == "lower":
            file.directory = f"{top}/merged"  # where it is read
    made += [MadeFile(top, *each) for each in wanted if each[0] == "upper"]
    for place in ("disk", "loop"):
        subprocess.run(["sync", "-f", f"{top}/{place}"], check=True)
    for number, file in enumerate(made):
        file.settle(number)
        file.identify(top)
    return made


def main(top: str) -> None:
    """Compare them."""
    made = make_all(top)
    before = [file.nr_in_ram() for file in made]
    result = Machine().cache(limit=sys.maxsize, details=["path"])
    after = [file.nr_in_ram() for file in made]
    found = {(file.dev, file.inode): file for file in result.files}
    nr_compared, wrong = 0, []
    for file, first, last in zip(made, before, after, strict=True):
        if first == last and first:
            nr_compared += 1
            said = found.get(file.key)
            if not file.is_told(said, first):
                wrong.append([file.place, file.sort, first, str(said)])
    print(json.dumps({"nr_compared": nr_compared, "nr_wrong": len(wrong), "wrong": wrong[:MOST_SHOWN]}))


if __name__ == "__main__":
    main(sys.argv[1])
