"""The processors that a guest can have, and the machine that QEMU makes around each."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """A kind of processor."""

    name: str
    uname: str
    """As ``uname -m`` has it."""
    debian: str
    flavours: dict[str, str]
    """How Debian calls the kernel with pages of each size."""
    qemu: str
    machine: str
    cpu: str
    """What is emulated."""
    console: str
    """The kernel's."""
    output: str
    """Where the command writes to."""
    output_device: tuple[str, ...]
    """That device, its other end being our standard output."""

    @property
    def is_host(self) -> bool:
        """Whether the host's own programs run there."""
        return self.uname == platform.machine()


X86_64 = Architecture(
    name="x86-64",
    uname="x86_64",
    debian="amd64",
    flavours={"4k": "amd64"},
    qemu="qemu-system-x86_64",
    # Not for KSM: a test on the host that switches it on would wait for all the guest's memory to be looked through.
    machine="q35,mem-merge=off",
    # numpy sorts wrongly with the AVX2 that QEMU 7.2 emulates.
    cpu="max,-avx2",
    console="ttyS0",
    output="ttyS1",
    output_device=("-serial", "stdio"),
)
ARM64 = Architecture(
    name="arm64",
    uname="aarch64",
    debian="arm64",
    flavours={"4k": "arm64", "16k": "arm64-16k"},
    qemu="qemu-system-aarch64",
    machine="virt,mem-merge=off",
    # Pointer authentication as the processors have it is slow to emulate.
    cpu="max,pauth-impdef=on",
    console="ttyAMA0",
    # The machine has one serial line.
    output="hvc0",
    output_device=(
        *("-device", "virtio-serial-pci", "-chardev", "stdio,id=stdio,signal=off"),
        *("-device", "virtconsole,chardev=stdio"),
    ),
)
ARCHITECTURES = {architecture.name: architecture for architecture in (X86_64, ARM64)}
PAGE_SIZES = ("4k", "16k")
