"""A guest: one command in a virtual machine that sees the host's files and runs another kernel.

QEMU emulates the processor (TCG) unless a boot has shown that KVM works: a /dev/kvm that is there proves nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import foreign
import initramfs
from architectures import X86_64, Architecture
from cache import CACHE, ROOT, Unavailable, cache_alone
from kernels import Kernel

NO_RESULT = 125
"""Exit code when the guest left none, or its kernel complained."""
BOOT_LINE = "guest: up"
COMPLAINT = re.compile(
    r"\bWARNING: |\bBUG: |\bBUG\b at|\bOops\b|Kernel panic|general protection fault|UBSAN:|KASAN:|Bad page"
    r"|segfault at|blocked for more than|self-detected stall|detected (?:expedited )?stalls|non-static key|refcount_t:"
    r"|lock order detected|held lock freed|still has locks held|(?:list_add|list_del) corruption"
)
"""A line of the console with this fails the run."""
HARMLESS = re.compile(r"(?:Spectre V2 |RETBleed|Speculative Return Stack Overflow): WARNING: ")
"""What the processor of the host lacks is said so under KVM (arch/x86/kernel/cpu/bugs.c)."""
PROBE_SECONDS = 10.0
DISK_SIZE = 2 << 30
"""Sparse: what is not written takes no room. A temporary swap file leaves 1 GiB free."""
INSIDE = "/mnt/out"
"""Where the guest sees the folder for results."""
HIDDEN = ("/dev", "/mnt/disk", "/mnt/out", "/proc", "/run", "/sys", "/var/tmp")
"""Where the guest has file systems of its own."""
VARIABLE = "MEMATLAS_GUEST"
"""Set inside, to the settings: ``kernel=6.12 arch=x86-64 pages=4k levels=5 numa=0 pti=0 lockdown=none``."""
SHARE = "trans=virtio,version=9p2000.L,msize=524288,cache=loose"
"""How what nobody changes meanwhile is mounted; init has the same."""


@dataclass(frozen=True)
class Settings:
    """What machine to run."""

    levels: int = 5
    """Of page tables; x86-64 alone, as is the next but one."""
    numa: bool = False
    pti: bool = False
    lockdown: str = "none"
    smp: int = 2
    memory: int = 4096
    """MiB, half of it on each of two nodes with ``numa``."""
    append: tuple[str, ...] = ()
    """More words for the kernel's command line."""

    def words(self, kernel: Kernel) -> str:
        """Return them as the programs inside read them."""
        machine = f"kernel={kernel.key} arch={kernel.architecture.name} pages={kernel.page_size}"
        return f"{machine} levels={self.levels} numa={self.numa:d} pti={self.pti:d} lockdown={self.lockdown}"

    def kernel_line(self, architecture: Architecture) -> list[str]:
        """Return the kernel's command line."""
        # Warnings must reach the console, and a kernel that is broken must end rather than hang. Processors that
        # are emulated on a busy host stand still for long: that is no lockup.
        words = [f"console={architecture.console}", f"mematlas.output={architecture.output}"]
        words += ["quiet", "loglevel=5", "log_buf_len=4M", "panic=-1", "oops=panic"]
        words += ["watchdog_thresh=60", "rcupdate.rcu_cpu_stall_timeout=240"]
        words += ["hugepagesz=1G", "hugepages=1"]
        if architecture is X86_64:
            words += ["no5lvl"] * (self.levels == 4)
            words += ["pti=on" if self.pti else "pti=off"]
        words += [f"lockdown={self.lockdown}"] * (self.lockdown != "none")
        return [*words, *self.append]

    def qemu_words(self) -> list[str]:
        """Return the options for processors and memory."""
        # Processors of one socket lie on one node.
        words = ["-smp", f"{self.smp},sockets={self.smp},cores=1", "-m", f"{self.memory}M"]
        if not self.numa:
            return words
        for node in (0, 1):
            cpus = f"{node * self.smp // 2}-{(node + 1) * self.smp // 2 - 1}"
            words += ["-object", f"memory-backend-ram,id=m{node},size={self.memory // 2}M"]
            words += ["-numa", f"node,nodeid={node},memdev=m{node},cpus={cpus}"]
        return [*words, "-numa", "dist,src=0,dst=1,val=20"]


@dataclass
class Result:
    """What became of a run."""

    code: int
    """The command's exit code; `NO_RESULT` when there is none, or the kernel complained."""
    seconds: float
    message: str = ""
    """Why the code is `NO_RESULT`."""
    complaints: list[str] = field(default_factory=list)


class Guest:
    """Runs commands on one kernel."""

    def __init__(self, kernel: Kernel, settings: Settings, output: Path | None = None) -> None:
        self.kernel = kernel
        self.settings = settings
        with cache_alone():
            sweep()
            self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE))
            self._lock = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.output = output or self.folder / "out"
        """What the guest leaves."""
        self.console = self.folder / "console"

    def close(self) -> None:
        """Remove what the run left, but not an output folder that the caller named."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def run(self, command: list[str], timeout: float) -> Result:
        """Run a command to its end, its output going to ours."""
        began = time.monotonic()
        accelerated = kvm_works(self.kernel, self.settings.levels)
        result = self._run(command, timeout)
        if result.code == NO_RESULT and BOOT_LINE not in self._console():
            # Nothing of what is tested has run: the host, not the guest, was the cause.
            print(f"guest: it did not start ({result.message.splitlines()[0]}); once more", file=sys.stderr)
            result = self._run(command, timeout)
        if result.code == NO_RESULT and not accelerated and is_torn(self._console()):
            print("guest: the emulator ended the kernel in the middle of a no-op; once more", file=sys.stderr)
            result = self._run(command, timeout)
        result.seconds = time.monotonic() - began
        return result

    def _run(self, command: list[str], timeout: float) -> Result:
        self.output.mkdir(parents=True, exist_ok=True)
        for name in ("code", "dmesg"):
            (self.output / name).unlink(missing_ok=True)
        (self.output / "command").write_text(self._script(command))
        with open(self.folder / "disk", "wb") as disk:
            disk.truncate(DISK_SIZE)
        ended = self._boot(self._qemu(), timeout)
        return self._judge(ended, timeout)

    def _judge(self, ended: bool, timeout: float) -> Result:
        console = self._console()
        dmesg = self.output / "dmesg"
        log = console + (dmesg.read_text(errors="replace") if dmesg.exists() else "")
        complaints = complaints_in(log)
        try:
            code = int((self.output / "code").read_text())
        except (OSError, ValueError):
            why = "no result" if ended else f"no result within {timeout:.0f} s: killed"
            tail = "\n".join(console.splitlines()[-40:])
            errors = (self.folder / "qemu").read_text(errors="replace")[-2000:]
            return Result(NO_RESULT, 0, f"{why}; the console ends with\n{tail}\n{errors}".rstrip(), complaints)
        if complaints:
            return Result(NO_RESULT, 0, "the kernel complained:\n" + "\n".join(complaints[:20]), complaints)
        return Result(code, 0)

    def _console(self) -> str:
        try:
            return self.console.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _script(self, command: list[str]) -> str:
        native = self.kernel.architecture.is_host
        path = os.environ.get("PATH") if native else None
        environment = {
            "PATH": path or "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "TMPDIR": "/mnt/disk",
            VARIABLE: self.settings.words(self.kernel),
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        set_up = "" if native else foreign.script(SHARE)
        folder = shlex.quote(str(visible_folder(native)))
        # No exec: the command has a parent that is not the first process, as everywhere.
        return f"{set_up}cd {folder} || exit 124\nenv -i {shlex.join([*words, *command])}\nexit $?\n"

    def _shares(self) -> dict[str, Path]:
        """Return the folders that the guest sees but cannot write to, by the names of their shares."""
        architecture = self.kernel.architecture
        if architecture.is_host:
            return {"root": Path("/")}
        root = foreign.root_of(architecture)
        over = self.folder / foreign.OVER
        if not over.exists():
            foreign.lay_over(root, over)
        return {"root": root, foreign.CHECKOUT: ROOT, foreign.OVER: over}

    def _qemu(self) -> list[str]:
        architecture = self.kernel.architecture
        accelerated = kvm_works(self.kernel, self.settings.levels)
        shares = {
            name: f"path={option_of(path)},security_model=none,readonly=on,multidevs=remap"
            for name, path in self._shares().items()
        }
        shares["out"] = f"path={option_of(self.output.resolve())},security_model=none"
        words = qemu_words(self.kernel, accelerated, self.console, self.settings.kernel_line(architecture))
        words += [*self.settings.qemu_words(), *architecture.output_device]
        for name, options in shares.items():
            words += ["-fsdev", f"local,id={name},{options}"]
            words += ["-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]
        return [*words, "-drive", f"file={option_of(self.folder / 'disk')},format=raw,if=virtio,cache=unsafe"]

    def _boot(self, words: list[str], timeout: float) -> bool:
        """Run qemu; return whether it ended by itself in time."""
        self.console.unlink(missing_ok=True)
        with open(self.folder / "qemu", "wb") as errors:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, preexec_fn=end_with_parent
            )
        end = time.monotonic() + timeout
        try:
            assert process.stdout
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while (left := end - time.monotonic()) > 0:
                    if selector.select(left):
                        data = os.read(process.stdout.fileno(), 1 << 16)
                        if not data:
                            return process.wait(10) is not None
                        sys.stdout.buffer.write(data)
                        sys.stdout.buffer.flush()
            return False
        finally:
            process.kill()
            process.communicate()


def is_torn(console: str) -> bool:
    """Whether a kernel ended in the middle of a no-op of five bytes, where no processor ever goes on.

    The kernel makes a jump of it, or back, by a breakpoint in its first byte (text_poke_bp() of alternative.c). With
    several emulated processors QEMU 7.2 takes the breakpoint, now and then, when the kernel has withdrawn it already.

    >>> is_torn("[   29.441268] Code: 0f 1f 44 00 00 0f <1f> 44 00 00 49 8d"), is_torn("Code: 00 <0f> 1f 44 00 00")
    (True, False)
    """
    return re.search(r"Code: .*\b0f <1f> 44 00 00\b", console) is not None


def complaints_in(log: str) -> list[str]:
    """Return the lines that say that something went wrong, each once.

    >>> complaints_in("WARNING: bad unlock balance detected!\\nrandom: crng init done")
    ['WARNING: bad unlock balance detected!']
    """
    lines = (line for line in log.splitlines() if COMPLAINT.search(line) and not HARMLESS.search(line))
    return list(dict.fromkeys(lines))


PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None)


def end_with_parent() -> None:
    """Have the kernel end this process when its parent is gone, however that ended."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_orderly() -> None:
    """Have a signal end us as Ctrl-C does: with the guest ended and its files removed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    if os.environ.get("MEMATLAS_END_WITH_PARENT"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def sweep() -> None:
    """Remove what runs left that were killed: nobody holds the lock on their folder. We hold that on the cache."""
    for folder in CACHE.glob("probe-*"):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in CACHE.glob("run-*"):
        with contextlib.suppress(OSError):
            fd = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(fd)
    for path in (*CACHE.glob("*.part-*"), *CACHE.glob("*/*.part-*")):
        if not Path(f"/proc/{path.name.rpartition('-')[2]}").exists():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def visible_folder(native: bool = True) -> Path:
    """Return the folder that we are in; raise `Unavailable` if the guest has another one there, or none."""
    folder = Path.cwd()
    if not native and not folder.is_relative_to(ROOT):
        raise Unavailable(f"a guest with another processor sees of the host's files those below {ROOT} alone: go there")
    for hidden in HIDDEN:
        if folder.is_relative_to(hidden):
            raise Unavailable(f"the guest sees nothing of the host's {hidden}: change to another folder than {folder}")
    return folder


def option_of(path: Path) -> str:
    """Return a path as an option of qemu has it.

    >>> option_of(Path("/a,b"))
    '/a,,b'
    """
    return str(path).replace(",", ",,")


def qemu_words(kernel: Kernel, accelerated: bool, console: Path, line: list[str]) -> list[str]:
    """Return the command that boots a kernel with our initramfs; the first serial line is its console."""
    machine = kernel.architecture
    accel = ["-accel", "kvm", "-cpu", "host"] if accelerated else ["-accel", "tcg,thread=multi", "-cpu", machine.cpu]
    return [
        *(machine.qemu, "-nodefaults", "-no-user-config", "-machine", machine.machine, *accel),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs.make(kernel)), "-append", " ".join(line)),
        *("-display", "none", "-no-reboot", "-serial", f"file:{console}"),
    ]


def processor_flags() -> set[str]:
    """Return what the host's processors can do."""
    with open("/proc/cpuinfo") as file:
        return next((set(line.split()) for line in file if line.startswith("flags")), set())


def kvm_is_there() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def kvm_works(kernel: Kernel, levels: int) -> bool:
    """Whether the kernel reaches our init under KVM, with as many levels. Tried once for each start of the host."""
    if not kernel.architecture.is_host or not kvm_is_there():
        return False
    # A processor without five levels boots the kernel, with four.
    has_levels = kernel.architecture is not X86_64 or levels == 4 or "la57" in processor_flags()
    return has_levels and kvm_boots(kernel)


@cache_alone()
def kvm_boots(kernel: Kernel) -> bool:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = CACHE / f"kvm-{kernel.release}"
    # Anything else is no answer: nobody has written it to its end.
    if known.exists() and (words := known.read_text().split()) in ([boot, "yes"], [boot, "no"]):
        return words[1] == "yes"
    with tempfile.TemporaryDirectory(prefix="probe-", dir=CACHE) as folder:
        console = Path(folder) / "console"
        line = [f"console={kernel.architecture.console}", "quiet", "panic=-1", "mematlas.probe"]
        words = qemu_words(kernel, True, console, line)
        try:
            quiet = subprocess.DEVNULL
            subprocess.run(
                [*words, "-m", "512M"],
                stdin=quiet,
                stdout=quiet,
                stderr=quiet,
                timeout=PROBE_SECONDS,
                check=False,
                preexec_fn=end_with_parent,
            )
        except subprocess.TimeoutExpired:
            pass
        works = console.exists() and BOOT_LINE in console.read_text(errors="replace")
    part = known.with_name(f"{known.name}.part-{os.getpid()}")
    part.write_text(f"{boot} {'yes' if works else 'no'}\n")
    part.rename(known)
    return works


def boot(kernel: Kernel, settings: Settings, command: list[str], timeout: float, output: Path | None = None) -> Result:
    """Run one command in a new guest; say on stderr why there is no result."""
    guest = Guest(kernel, settings, output)
    try:
        result = guest.run(command, timeout)
        if result.message:
            print(f"guest: {result.message}", file=sys.stderr)
        return result
    finally:
        guest.close()


__all__ = ["NO_RESULT", "Guest", "Result", "Settings", "Unavailable", "boot", "end_orderly", "kvm_works"]
