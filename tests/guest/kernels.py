"""Kernels to boot in a guest: Debian's packages, fetched with apt-get and unpacked in a cache folder, never installed.

Point releases come and go in the archive, so a kernel is chosen by pattern: the newest that there is.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "guest"

PATTERNS = {
    "6.1": r"^linux-image-6\.1\.0-[0-9]+-amd64$",
    "6.12": r"^linux-image-6\.12\.[0-9]+\+deb12-amd64$",
}
OWN = "own"
"""Our own configuration, with what no Debian kernel has; `own.py` builds it."""


class Unavailable(Exception):
    """What is needed for a guest cannot be had here; the text says what to do."""


@dataclass(frozen=True)
class Kernel:
    """A kernel, unpacked."""

    key: str
    """``6.1``, ``6.12`` or ``own``."""
    release: str
    """As uname -r has it."""
    image: Path
    config: Path
    modules: Path | None
    """/lib/modules/RELEASE; None when everything is built in."""
    build: Path | None
    """Where a module for it can be built; None until `fetch_headers`."""


_depth = 0


@contextlib.contextmanager
def cache_alone() -> Iterator[None]:
    """Hold the cache for this process alone: two runs that set up the same thing would break one another's.

    May be nested. The kernel lets go when we end, however that happens.
    """
    global _depth
    if _depth:
        yield
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    fd = os.open(CACHE / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("guest: waiting for another run's set-up", file=sys.stderr, flush=True)
            fcntl.flock(fd, fcntl.LOCK_EX)
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
    finally:
        os.close(fd)


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """Run a program to its end and return what it wrote; its messages become the error."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(map(str, words))}: {(done.stderr or done.stdout).strip()[-1000:]}")
    return done.stdout


def need_programs(what: str = "guests") -> None:
    """Install the programs that are not there, as root; raise `Unavailable` otherwise."""
    done = subprocess.run([ROOT / "scripts" / "packages", what], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Unavailable(done.stderr.strip().splitlines()[-1])
    print(done.stderr, end="", file=sys.stderr, flush=True)


@cache_alone()
def fetch(key: str) -> Kernel:
    """Return a kernel, downloaded and unpacked if need be; one from the cache, and loudly, if the archive has none."""
    if key == OWN:
        return own_kernel()
    try:
        return retried(lambda: newest_of_archive(key))
    except Unavailable as error:
        cached = [f"linux-image-{path.parent.name}" for path in CACHE.glob("*/image")]
        found = [name for name in cached if re.match(PATTERNS[key], name)]
        if not found:
            raise
        release = max(found, key=version_of).removeprefix("linux-image-")
        print(f"guest: NOT THE NEWEST {key}, BUT {release} FROM THE CACHE: {error}", file=sys.stderr, flush=True)
        return debian_kernel(key, release)


def newest_of_archive(key: str) -> Kernel:
    """Return the newest kernel that the archive offers."""
    found = search(PATTERNS[key])
    if not found:
        raise Unavailable(f"no package matches {PATTERNS[key]}: sudo apt-get update, on Debian 12 or newer")
    package = max(found, key=version_of)
    release = package.removeprefix("linux-image-")
    if not (CACHE / release / "image").exists():
        unpack([package], CACHE / release / "image")
    return debian_kernel(key, release)


_updated = False
T = TypeVar("T")


def retried(what: Callable[[], T]) -> T:
    """Return what a function does, tried again with new lists of packages: point releases leave the archive."""
    try:
        return what()
    except Unavailable as error:
        if not update(str(error)):
            raise
        return what()


def update(why: str) -> bool:
    """Fetch the lists of packages, as root, once for each process; return whether there are new ones."""
    global _updated
    if _updated or os.geteuid() or not shutil.which("apt-get"):
        return False
    _updated = True
    print(f"guest: apt-get update, because of: {why.splitlines()[0]}", file=sys.stderr, flush=True)
    try:
        run("apt-get", "update", "-qq")
    except Unavailable as error:
        print(f"guest: {error}", file=sys.stderr, flush=True)
        return False
    return True


def debian_kernel(key: str, release: str) -> Kernel:
    """Return an unpacked Debian kernel."""
    image = CACHE / release / "image"
    build = headers_folder(release) / "usr" / "src" / f"linux-headers-{release}"
    return Kernel(
        key,
        release,
        image / "boot" / f"vmlinuz-{release}",
        image / "boot" / f"config-{release}",
        image / "lib" / "modules" / release,
        build if build.exists() else None,
    )


def headers_folder(release: str) -> Path:
    """Return the folder of a kernel's headers. They name one another by path: another place is another folder."""
    return CACHE / release / f"headers-{hashlib.sha256(bytes(CACHE)).hexdigest()[:8]}"


def own_state() -> str:
    """Return what the own kernel is known by, beside its version: another configuration is another kernel."""
    return hashlib.sha256(Path(__file__).with_name("own.config").read_bytes()).hexdigest()[:16]


def own_kernel() -> Kernel:
    """Return the newest of the kernels that were built from our fragment as it is now."""
    built = sorted(CACHE.glob(f"own-*-{own_state()}/bzImage"), key=lambda path: path.stat().st_mtime)
    if not built:
        raise Unavailable("the own kernel is not built: make guest-kernel (10 to 20 minutes)")
    folder = built[-1].parent
    tree = folder / "build"
    release = (folder / "release").read_text().strip()
    return Kernel(OWN, release, built[-1], folder / "config", None, tree if tree.exists() else None)


def search(pattern: str) -> list[str]:
    """Return the packages that the archive offers."""
    if not shutil.which("apt-cache"):
        raise Unavailable("a guest's kernel comes from Debian's archive: needs apt-get")
    return [line.split()[0] for line in run("apt-cache", "search", "--names-only", pattern).splitlines()]


def version_of(name: str) -> list[int]:
    """Return the numbers in a name, to sort by.

    >>> version_of("linux-image-6.12.117+deb12-amd64")
    [6, 12, 117, 12, 64]
    """
    return [int(word) for word in re.findall(r"\d+", name)]


def unpack(packages: list[str], folder: Path, finish: Callable[[Path], None] | None = None) -> None:
    """Download packages and unpack them in a folder; it appears only when it is complete and ``finish`` has ended."""
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    archives = part / "archives"
    archives.mkdir(parents=True)
    try:
        print(f"guest: fetching {', '.join(packages)}", file=sys.stderr, flush=True)
        run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *packages, cwd=archives)
        for archive in sorted(archives.iterdir()):
            run("dpkg", "-x", archive, part)
        shutil.rmtree(archives)
        if finish:
            finish(part)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@cache_alone()
def fetch_headers(kernel: Kernel) -> Kernel:
    """Return the kernel with what a module is built against."""
    if kernel.build or kernel.key == OWN:
        return kernel
    folder = headers_folder(kernel.release)
    retried(lambda: headers_of_archive(kernel.release, folder))
    for old in folder.parent.glob("headers*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    return debian_kernel(kernel.key, kernel.release)


def headers_of_archive(release: str, folder: Path) -> None:
    """Unpack the headers of a kernel in a folder."""
    first = f"linux-headers-{release}"
    depends = run("apt-cache", "depends", first)
    others = re.findall(r"Depends: (linux-headers-\S+-common|linux-kbuild-\S+)", depends)
    unpack([first, *others], folder, lambda part: relocate(folder, part / "usr" / "src" / first))


def relocate(folder: Path, build: Path) -> None:
    """Have unpacked headers name one another in the folder where they will be, not where they would be installed."""
    for name in ("Makefile", ".kernelvariables"):
        path = build / name
        if path.exists():
            path.write_text(re.sub(r"(?<![\w/.-])/usr/(src|lib)/", rf"{folder}/usr/\1/", path.read_text()))
    for path in build.rglob("*"):
        if path.is_symlink() and (target := os.readlink(path)).startswith("/usr/"):
            path.unlink()
            path.symlink_to(f"{folder}{target}")
