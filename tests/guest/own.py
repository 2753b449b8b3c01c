"""Build a kernel with every interface that mematlas knows, from Debian's source package: `make guest-kernel`.

It takes 10 to 20 minutes of two processors, once for each version of the source and of own.config.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from archive import Archive, archive_of
from cache import CACHE, Unavailable, cache_alone, need_programs, run
from kernels import OFFERS, own_state

HERE = Path(__file__).resolve().parent
PACKAGE = "linux-source-6.12"


@cache_alone()
def source(archive: Archive) -> tuple[str, Path]:
    """Return the version of the source package, and what it holds."""
    version = archive.version(PACKAGE)
    folder = CACHE / f"source-{version}"
    if not folder.exists():
        archive.unpack([PACKAGE], folder)
    return version, folder / "usr" / "src" / f"{PACKAGE}.tar.xz"


def unmet(wanted: Path, config: Path) -> list[str]:
    """Return the lines of a fragment that a configuration has not."""
    have = set(config.read_text().splitlines())
    lines = wanted.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#") and line not in have]


def build(folder: Path, sources: Path) -> None:
    """Build the kernel in a folder; the module is built against the tree in it later."""
    tree = folder / "build"
    tree.mkdir(parents=True)
    run("tar", "-xJf", sources, "--strip-components=1", "-C", tree)
    run("make", "-C", tree, "allnoconfig")
    run("scripts/kconfig/merge_config.sh", "-m", ".config", HERE / "own.config", cwd=tree)
    run("make", "-C", tree, "olddefconfig")
    if lines := unmet(HERE / "own.config", tree / ".config"):
        print(f"guest: not taken over: {' '.join(lines)}", flush=True)
    words = ("nice", "make", "-C", tree, f"-j{os.cpu_count() or 1}", "bzImage", "modules_prepare")
    with open(folder / "log", "wb") as log:
        if subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
            raise Unavailable(f"building failed: {(folder / 'log').read_text(errors='replace')[-2000:]}")
    shutil.copy(tree / "vmlinux.symvers", tree / "Module.symvers")
    shutil.copy(tree / ".config", folder / "config")
    shutil.copy(tree / "include/config/kernel.release", folder / "release")
    # What it is known by is written last.
    shutil.copy(tree / "arch/x86/boot/bzImage", folder / "part")
    slim(tree)
    (folder / "part").rename(folder / "bzImage")


def slim(tree: Path) -> None:
    """Remove what building a module does not need: most of three gigabytes."""
    for path in tree.rglob("*"):
        is_object = path.suffix in (".o", ".a") or path.name in ("vmlinux", "vmlinux.bin") or path.name[:5] == ".tmp_"
        if is_object and path.is_file() and path.relative_to(tree).parts[0] not in ("scripts", "tools"):
            path.unlink()


def main() -> int:
    need_programs("kernel")
    archive = archive_of("amd64", *OFFERS["6.12"][1])
    version, sources = archive.fresh(lambda: source(archive))
    # Out-of-tree modules name the tree they are built against, so it is built where it stays.
    folder = CACHE / f"own-{version.replace('~', '_')}-{own_state()}"
    with open(CACHE / "own.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "bzImage").exists():
            print(f"guest: {folder.name} is there")
            return 0
        began = time.monotonic()
        print(f"guest: building {folder.name}; see {folder / 'log'}", flush=True)
        # What an earlier build left that was ended in the middle.
        shutil.rmtree(folder, ignore_errors=True)
        build(folder, sources)
        for old in CACHE.glob("own-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
        print(f"guest: built in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unavailable as error:
        sys.exit(f"guest: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
