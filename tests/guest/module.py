"""Building the kernel module for a kernel in the cache, on the host: `python tests/guest/module.py 6.12`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

from cache import CACHE, ROOT, Unavailable, cache_alone, need_programs, run
from kernels import Kernel, fetch, fetch_headers

SOURCE = ROOT / "native" / "kmod"


class NoCompiler(Unavailable):
    """The host is of an older release than the kernel: a compiler that knows its options is missing."""


def need_compiler(kernel: Kernel) -> None:
    """Raise `NoCompiler` if the compiler here is older than the kernel's."""
    wanted = re.search(r"^CONFIG_GCC_VERSION=(\d+)\d{4}$", kernel.config.read_text(), re.MULTILINE)
    found = run("gcc", "-dumpversion").split(".")[0].strip()
    if wanted and int(wanted[1]) > int(found):
        raise NoCompiler(f"a module for {kernel.release} needs gcc {wanted[1]}, which this host has not: it is {found}")


@cache_alone()
def build(kernel: Kernel) -> Path:
    """Return the module, built unless it is in the cache."""
    state = hashlib.sha256(b"".join((SOURCE / name).read_bytes() for name in ("mematlas.c", "Makefile")))
    folder = CACHE / "kmod" / f"{kernel.release}-{state.hexdigest()[:16]}"
    module = folder / "mematlas.ko"
    if module.exists():
        return module
    if re.search(r"[\s:]", str(folder)):
        raise Unavailable(f"the kernel's build system takes no path with a space or a colon: move {ROOT}")
    need_programs()
    need_compiler(kernel)
    kernel = fetch_headers(kernel)
    if kernel.build is None:
        raise Unavailable(f"nothing to build a module for {kernel.release} against")
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    try:
        shutil.copytree(SOURCE, part, ignore=shutil.ignore_patterns("*.o", "*.ko", "*.mod*", ".*"))
        # Type information for the module would need pahole.
        options = (f"M={part}", "CC=gcc", "CONFIG_DEBUG_INFO_BTF_MODULES=", "W=1", "KCFLAGS=-Werror")
        run("make", "-C", kernel.build, *options, "modules")
        for old in (CACHE / "kmod").glob(f"{kernel.release}-????????????????"):
            shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return module


if __name__ == "__main__":
    try:
        for key in sys.argv[1:] or ["6.12"]:
            print(build(fetch(key)))
    except Unavailable as error:
        sys.exit(f"guest: {error}")
