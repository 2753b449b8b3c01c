"""The initramfs of a guest: busybox, the modules that lead to the host's root, and `init`.

Format: Documentation/driver-api/early-userspace/buffer-format.rst (newc).
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import foreign
from architectures import Architecture
from cache import CACHE, Unavailable, cache_alone
from kernels import Kernel

HERE = Path(__file__).resolve().parent

WANTED = ("virtio_pci", "virtio_blk", "virtio_console", "9pnet_virtio", "9p", "overlay", "ext4", "zram", "loop", "fuse")
SOFT = ("crc32c_generic", "lzo_rle", "lzo")
"""Algorithms that the others ask for by name at run time: taken where they are modules."""


def newc(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """Return one member of an archive."""
    path = name.encode() + b"\0"
    # inode, mode, uid, gid, nlink, mtime, size, device, rdevice, length of the name, checksum
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def archive(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Return an archive of these files, each with its permissions, and of the folders above them."""
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    members = [newc(name, stat.S_IFDIR | 0o755) for name in sorted(folders | {"dev"})]
    # The kernel opens it before anything is mounted.
    members.append(newc("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    members += [newc(name, stat.S_IFREG | mode, data) for name, (mode, data) in files.items()]
    return b"".join([*members, newc("TRAILER!!!", 0)])


def module_name(path: Path) -> str:
    """Return the name of a module, by that of its file."""
    return path.name.partition(".ko")[0].replace("-", "_")


def read_module(path: Path) -> bytes:
    """Return a module, unpacked."""
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def dependencies(module: bytes) -> list[str]:
    """Return the modules that one needs, as its .modinfo section says."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


def modules(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the modules that are wanted, each after those that it needs."""
    places = {module_name(path): path for path in folder.rglob("*.ko*")}
    built_in = {module_name(Path(line)) for line in (folder / "modules.builtin").read_text().split()}
    done: set[str] = set()

    def add(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name in built_in:
            return
        done.add(name)
        if name not in places:
            raise Unavailable(f"{folder} has no module {name}")
        module = read_module(places[name])
        for other in dependencies(module):
            yield from add(other)
        yield name, module

    for name in WANTED:
        yield from add(name)
    for name in SOFT:
        if name in places:
            yield from add(name)


def busybox_of(architecture: Architecture) -> Path:
    """Return a busybox that runs on a processor."""
    if architecture.is_host:
        return Path(shutil.which("busybox") or "busybox")
    return foreign.root_of(architecture) / "usr" / "bin" / "busybox"


@cache_alone()
def make(kernel: Kernel) -> Path:
    """Return the initramfs for a kernel, made unless it is in the cache."""
    program = (HERE / "init").read_bytes()
    busybox = busybox_of(kernel.architecture).read_bytes()
    state = hashlib.sha256(program + busybox + Path(__file__).read_bytes() + kernel.config.read_bytes())
    path = CACHE / f"initramfs-{kernel.release}-{state.hexdigest()[:16]}"
    if path.exists():
        return path
    files = {
        "init": (0o755, program),
        "bin/busybox": (0o755, busybox),
        "config": (0o644, kernel.config.read_bytes()),
    }
    if kernel.modules:
        # Loaded in the order of their names.
        for place, (name, module) in enumerate(modules(kernel.modules)):
            files[f"modules/{place:02}-{name}.ko"] = (0o644, module)
    for old in CACHE.glob(f"initramfs-{kernel.release}-*"):
        old.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    part.write_bytes(archive(files))
    part.rename(path)
    return path
