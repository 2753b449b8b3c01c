"""A root for guests whose processor is not the host's: packages of Debian, unpacked, none of their scripts run.

The checkout is laid over it at its place on the host, with what of its .venv is Python alone; the interpreter, numpy
and what else is compiled are Debian's.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from importlib import metadata
from pathlib import Path

from architectures import Architecture
from archive import archive_of
from cache import CACHE, ROOT, cache_alone

SUITE = "trixie"
PACKAGES = (
    *("base-files", "base-passwd", "bash", "busybox-static", "coreutils", "dash", "e2fsprogs", "findutils", "grep"),
    "hostname",
    *("libc-bin", "libcap2-bin", "mount", "ncurses-base", "procps", "sed", "tar", "tmux", "util-linux"),
    *("python3", "python3-hypothesis", "python3-numpy", "python3-psutil"),
)
PYTHON = "/usr/bin/python3"
VENV = ROOT / ".venv"
CHECKOUT = "checkout"
"""The share with the checkout."""
OVER = "over"
"""The share with what is different in it."""


@cache_alone()
def root_of(architecture: Architecture) -> Path:
    """Return the root for a processor, made unless it is in the cache."""
    state = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    folder = CACHE / f"root-{architecture.name}-{state}"
    if not folder.exists():
        archive = archive_of(architecture.debian, SUITE)
        archive.fresh(lambda: archive.unpack(list(PACKAGES), folder, set_up, with_needed=True))
        for old in CACHE.glob(f"root-{architecture.name}-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
    return folder


def set_up(root: Path) -> None:
    """Do what the scripts of packages would have done, as far as it is missed."""
    for name, mode in (("proc", 0o755), ("sys", 0o755), ("dev", 0o755), ("run", 0o755), ("tmp", 0o1777)):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(mode)
    for name in ("passwd", "group"):
        shutil.copy(root / "usr" / "share" / "base-passwd" / f"{name}.master", root / "etc" / name)
    # Libraries of which there are several to choose from.
    for path in root.glob("usr/lib/*/*/lib*.so.3"):
        if path.parent.name in ("blas", "lapack"):
            (path.parents[1] / path.name).symlink_to(path.relative_to(path.parents[1]))


def lay_over(root: Path, folder: Path) -> None:
    """Make the folder with what is different in the checkout: the interpreter of .venv, and what it can import."""
    version = os.readlink(root / PYTHON[1:]).removeprefix("python")
    there = folder / VENV.relative_to(ROOT)
    packages = there / "lib" / f"python{version}" / "site-packages"
    packages.mkdir(parents=True)
    (there / "bin").mkdir()
    (there / "bin" / "python").symlink_to(PYTHON)
    (there / "bin" / "python3").symlink_to("python")
    (there / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")
    for site in VENV.glob("lib/python3*/site-packages"):
        for name in pure_names(site):
            (packages / name).symlink_to(os.path.relpath(site / name, VENV / packages.relative_to(there)))


def pure_names(site: Path) -> set[str]:
    """Return what is in a folder of packages that has nothing compiled."""
    names: set[str] = set()
    for distribution in metadata.distributions(path=[str(site)]):
        if "Root-Is-Purelib: true" in (distribution.read_text("WHEEL") or ""):
            names |= {path.parts[0] for path in distribution.files or ()}
    return names - {"..", "__pycache__"}


def script(share: str) -> str:
    """Return the lines of shell that put the checkout in its place; ``share`` is how shares are mounted."""
    place = shlex.quote(str(ROOT))
    lines = ["PATH=/usr/sbin:/usr/bin", "mkdir -p /run/checkout /run/over /run/upper /run/work"]
    lines += [f"mount -t 9p -o {share},ro {name} /run/{name}" for name in (CHECKOUT, OVER)]
    layers = "lowerdir=/run/over:/run/checkout,upperdir=/run/upper,workdir=/run/work"
    lines += [f"mkdir -p {place}", f"mount -t overlay -o {layers} {CHECKOUT} {place}"]
    return " && ".join(lines) + " || exit 124\n"
