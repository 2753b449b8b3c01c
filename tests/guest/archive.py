"""Debian's archive: any release of it, for any processor, by apt with lists of its own, so nothing of the host changes.

The mirrors are those of the machine's own sources of apt.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cache import CACHE, Unavailable, run

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
OUT_OF_SUPPORT = ("bullseye", "bullseye-security")
"""Their lists are not signed anew, so the date until which they are valid is over."""
FRESH_SECONDS = 24 * 3600.0
T = TypeVar("T")


class Archive:
    """Some suites of Debian, for one processor."""

    def __init__(self, processor: str, suites: tuple[str, ...]) -> None:
        self.processor = processor
        """As Debian names it: ``amd64``."""
        self.suites = suites
        self.folder = CACHE / "apt" / f"{processor}-{'+'.join(suites)}"
        self._updated = False

    def fresh(self, what: Callable[[], T]) -> T:
        """Return what a function does, tried again with new lists of packages: point releases leave the archive."""
        if why := self._is_old():
            self._update(why)
        try:
            return what()
        except Unavailable as error:
            if not self._update(str(error)):
                raise
            return what()

    def search(self, pattern: str) -> list[str]:
        """Return the names of packages that match."""
        lines = self._apt("apt-cache", "search", "--names-only", pattern).splitlines()
        return [line.split()[0] for line in lines]

    def depends(self, package: str, pattern: str) -> list[str]:
        """Return the packages that one needs, of those that match."""
        told = self._apt("apt-cache", "depends", package)
        return [name for name in re.findall(r"^\s*Depends: (\S+)$", told, re.MULTILINE) if re.fullmatch(pattern, name)]

    def version(self, package: str) -> str:
        """Return the version that would be downloaded."""
        told = self._apt("apt-cache", "show", "--no-all-versions", package)
        return next(line.split()[1] for line in told.splitlines() if line.startswith("Version:"))

    def unpack(
        self,
        packages: list[str],
        folder: Path,
        finish: Callable[[Path], None] | None = None,
        with_needed: bool = False,
    ) -> None:
        """Download packages, with those that they need if so wanted, and unpack them in a folder.

        It appears only when it is complete and ``finish`` has ended.
        """
        part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
        archives = part / "archives"
        archives.mkdir(parents=True)
        try:
            print(f"guest: fetching {', '.join(packages)}", file=sys.stderr, flush=True)
            if with_needed:
                words = ("install", "--download-only", "--yes", "--no-install-recommends", "-oDebug::NoLocking=1")
                self._apt("apt-get", "-qq", *words, f"-oDir::Cache::archives={archives}", *packages)
            else:
                self._apt("apt-get", "-qq", "download", *packages, cwd=archives)
            for archive in sorted(archives.glob("*.deb")):
                run("dpkg", "-x", archive, part)
            shutil.rmtree(archives)
            if finish:
                finish(part)
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def lines(self) -> list[str]:
        """Return the suites as a list of sources has them."""
        mirrors = machine_mirrors()
        options = [f"signed-by={KEYS}"] * KEYS.exists()
        made = []
        for suite in self.suites:
            # Security has a mirror of its own; a machine that asks none for updates has the rest.
            if mirror := mirrors.get(suite.endswith("-security")):
                given = [*options, *["check-valid-until=no"] * (suite in OUT_OF_SUPPORT)]
                made.append(" ".join(["deb", *[f"[{' '.join(given)}]"] * bool(given), mirror, suite, "main"]))
        return made

    def _is_old(self) -> str:
        """Return why the lists are to be fetched; nothing when they are new enough, or of this process."""
        try:
            age = time.time() - (self.folder / "updated").stat().st_mtime
        except FileNotFoundError:
            return "none yet"
        return "they are old" if age > FRESH_SECONDS and not self._updated else ""

    def _update(self, why: str) -> bool:
        """Fetch the lists of packages, once for each process; return whether there are new ones."""
        if self._updated:
            return False
        self._updated = True
        for name in ("lists/partial", "archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        (self.folder / "sources").write_text("\n".join([*self.lines(), ""]))
        print(f"guest: lists of packages for {self.folder.name}: {why.splitlines()[0]}", file=sys.stderr, flush=True)
        try:
            self._apt("apt-get", "update", "-qq", "-oAPT::Update::Error-Mode=any", "-oAcquire::Languages=none")
        except Unavailable as error:
            print(f"guest: {error}", file=sys.stderr, flush=True)
            return False
        (self.folder / "updated").touch()
        return True

    def _apt(self, program: str, *words: str, cwd: Path | None = None) -> str:
        """Run a program of apt with our lists and for our processor."""
        settings = {
            "Dir::State::Lists": self.folder / "lists",
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder,
            "Dir::Etc::sourcelist": self.folder / "sources",
            "Dir::Etc::sourceparts": "-",
            "APT::Architecture": self.processor,
            "APT::Architectures": self.processor,
            "APT::Sandbox::User": "root",
        }
        return run(program, *(f"-o{name}={value}" for name, value in settings.items()), *words, cwd=cwd)


@functools.cache
def archive_of(processor: str, *suites: str) -> Archive:
    """Return the one archive of these suites: its lists are fetched once for each process."""
    return Archive(processor, suites)


def machine_mirrors() -> dict[bool, str]:
    """Return where the machine gets Debian's packages from: security updates (True), and the rest."""
    if not shutil.which("apt-get"):
        raise Unavailable("a guest's kernel comes from Debian's archive: needs apt-get")
    found = mirrors_of(indextargets())
    if len(found) < 2 and not os.geteuid():
        # apt knows whose a source is once it has its lists, and an image may come with those of some sources alone.
        run("apt-get", "update", "-qq")
        found = mirrors_of(indextargets())
    if False not in found:
        raise Unavailable("apt has no lists of Debian's packages: sudo apt-get update, on Debian")
    return found


def mirrors_of(targets: list[tuple[str, str]]) -> dict[bool, str]:
    """Return the first mirror of security updates (True), and of the rest (False), as far as there are any."""
    return {suite.endswith("-security"): mirror for mirror, suite in reversed(targets)}


def indextargets() -> list[tuple[str, str]]:
    """Return the mirror and the suite of each of the machine's sources that are Debian's."""
    told = run("apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI) $(RELEASE)", "Identifier: Packages")
    rows = (line.split() for line in told.splitlines())
    return [(row[1], row[2]) for row in rows if len(row) == 3 and row[0] == "Debian"]
