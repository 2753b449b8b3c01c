"""Kernels to boot in a guest: Debian's packages, fetched with apt-get and unpacked in a cache folder, never installed.

Point releases come and go in the archive, so a kernel is chosen by pattern: the newest that there is.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from architectures import X86_64, Architecture
from archive import Archive, archive_of
from cache import CACHE, Unavailable, cache_alone

OFFERS = {
    "5.10": (r"5\.10\.0-[0-9]+", ("bullseye", "bullseye-security")),
    "6.1": (r"6\.1\.0-[0-9]+", ("bookworm", "bookworm-security")),
    "6.12": (r"6\.12\.[0-9]+\+deb12", ("bookworm-security",)),
    "7": (r"7\.[0-9]+\.[0-9]+(\+deb[0-9.+]+)?", ("trixie-backports", "sid")),
}
"""The releases that are meant by each name, and the suites that have them."""
OWN = "own"
"""Our own configuration, with what no Debian kernel has; `own.py` builds it."""


@dataclass(frozen=True)
class Kernel:
    """A kernel, unpacked."""

    key: str
    """``6.1``, ``6.12`` and the like, or ``own``."""
    release: str
    """As uname -r has it."""
    image: Path
    config: Path
    modules: Path | None
    """/lib/modules/RELEASE; None when everything is built in."""
    build: Path | None
    """Where a module for it can be built; None until `fetch_headers`."""
    architecture: Architecture = X86_64
    page_size: str = "4k"


@dataclass(frozen=True)
class Offer:
    """What the archive has of one kernel: the newest is wanted."""

    key: str
    architecture: Architecture = X86_64
    page_size: str = "4k"

    @property
    def archive(self) -> Archive:
        return archive_of(self.architecture.debian, *OFFERS[self.key][1])

    @property
    def pattern(self) -> str:
        """What the names of its packages match."""
        return f"^linux-image-{OFFERS[self.key][0]}-{self.architecture.flavours[self.page_size]}$"

    def newest(self, packages: list[str]) -> str | None:
        """Return the newest release of some packages."""
        found = [name for name in packages if re.match(self.pattern, name)]
        return max(found, key=version_of).removeprefix("linux-image-") if found else None

    def cached(self) -> list[str]:
        """Return the packages that are unpacked already."""
        return [f"linux-image-{path.parent.name}" for path in CACHE.glob("*/image")]

    def unpacked(self, release: str) -> Kernel:
        """Return a kernel that is in the cache."""
        folder = CACHE / release / "image"
        # Debian 13 keeps modules below /usr; a kernel of 7.x is packed with them.
        places = (folder / "usr" / "lib" / "modules" / release, folder / "lib" / "modules" / release)
        modules = next((place for place in places if place.exists()), places[0])
        image, config = modules / "vmlinuz", modules / "config"
        if not image.exists():
            image, config = folder / "boot" / f"vmlinuz-{release}", folder / "boot" / f"config-{release}"
        build = headers_folder(release) / "usr" / "src" / f"linux-headers-{release}"
        built_against = build if build.exists() else None
        return Kernel(self.key, release, image, config, modules, built_against, self.architecture, self.page_size)


@cache_alone()
def fetch(key: str, architecture: Architecture = X86_64, page_size: str = "4k") -> Kernel:
    """Return a kernel, downloaded and unpacked if need be; one from the cache, and loudly, if the archive has none."""
    if page_size not in architecture.flavours or (key == OWN and architecture is not X86_64):
        raise Unavailable(f"no kernel {key} of {architecture.name} with pages of {page_size}")
    if key == OWN:
        return own_kernel()
    offer = Offer(key, architecture, page_size)
    try:
        return offer.archive.fresh(lambda: newest_of_archive(offer))
    except Unavailable as error:
        release = offer.newest(offer.cached())
        if not release:
            raise
        print(f"guest: NOT THE NEWEST {key}, BUT {release} FROM THE CACHE: {error}", file=sys.stderr, flush=True)
        return offer.unpacked(release)


def newest_of_archive(offer: Offer) -> Kernel:
    """Return the newest kernel that the archive offers; older ones of its kind leave the cache."""
    release = offer.newest(offer.archive.search(offer.pattern))
    if not release:
        raise Unavailable(f"no package of {' or '.join(offer.archive.suites)} matches {offer.pattern}")
    if not (CACHE / release / "image").exists():
        package = f"linux-image-{release}"
        parts = offer.archive.depends(package, rf"linux-(base|binary|modules)-{re.escape(release)}")
        offer.archive.unpack([package, *parts], CACHE / release / "image")
        for old in offer.cached():
            if re.match(offer.pattern, old) and old != package:
                shutil.rmtree(CACHE / old.removeprefix("linux-image-"), ignore_errors=True)
    return offer.unpacked(release)


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


def version_of(name: str) -> list[int]:
    """Return the numbers in the name of a kernel, to sort by; that of the processor is none of them.

    >>> version_of("linux-image-6.12.117+deb12-arm64-16k")
    [6, 12, 117, 12]
    """
    return [int(word) for word in re.findall(r"\d+", re.sub(r"-[a-z].*", "", name.removeprefix("linux-image-")))]


@cache_alone()
def fetch_headers(kernel: Kernel) -> Kernel:
    """Return the kernel with what a module is built against."""
    if kernel.build or kernel.key == OWN:
        return kernel
    offer = Offer(kernel.key, kernel.architecture, kernel.page_size)
    folder = headers_folder(kernel.release)
    offer.archive.fresh(lambda: headers_of_archive(offer.archive, kernel.release, folder))
    for old in folder.parent.glob("headers*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    return offer.unpacked(kernel.release)


def headers_of_archive(archive: Archive, release: str, folder: Path) -> None:
    """Unpack the headers of a kernel in a folder."""
    first = f"linux-headers-{release}"
    others = archive.depends(first, r"linux-headers-\S+-common|linux-kbuild-\S+")
    archive.unpack([first, *others], folder, lambda part: relocate(folder, part / "usr" / "src" / first))


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
