"""Show that a clone of what is committed runs and passes its tests on a machine that has nothing: `make fresh`.

    scripts/fresh.py                            make demo and make test, as root and as an ordinary user
    scripts/fresh.py --suite trixie             the same in another release of Debian, with its Python
    scripts/fresh.py [--suite S] -- COMMAND     one command as root, in the clone

The machine is a minimal Debian root with git, make and python3 in a mount namespace of its own: made by mmdebstrap,
kept as an archive in ${XDG_CACHE_HOME:-~/.cache}/mematlas, unpacked anew for each run and removed at its end. /tmp is
in memory there, as on Debian 13, Fedora and Arch. Kernel, processes and devices are those of this machine, and how
it gets at packages is taken along, no more than that; each run says what: the sources of apt and its settings for
proxies and dates; pip's settings, with the directories that they name; certificates; the variables that name proxies
and certificates, and pip's; the names of name servers and hosts.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mematlas"
PACKAGES = "git,make,python3,ca-certificates"
USER = "ann"
NAME = "mematlas"
CLONES = {"root": f"/srv/{NAME}", USER: f"/home/ann/{NAME}"}
STEPS: tuple[tuple[str, dict[str, str], str], ...] = (
    ("root", {}, "make demo"),
    (USER, {}, "make demo"),
    # Before root has installed what the tests need: what is missing is named, and the others pass.
    (USER, {}, "make test"),
    ("root", {"CI": "1"}, "make test"),
)
"""Who, with which variables besides, does what."""

VARIABLES = re.compile(r"(?i)(https?|ftp|all|no)_proxy|PIP_\w+|\w+_CA_BUNDLE|SSL_CERT_(FILE|DIR)|\w+_CAINFO")
APT_SETTINGS = re.compile(r"^Acquire::.*(Proxy|Check-Valid-Until|Check-Date|CaInfo).* \".+\";$", re.MULTILINE)
AUTHORITIES = Path("/usr/local/share/ca-certificates")
PIP_FILES = (Path("/etc/pip.conf"), Path("~/.pip/pip.conf"), Path("~/.config/pip/pip.conf"))

CLONE_NEWNS = 0x00020000  # include/uapi/linux/sched.h
PATIENCE = 60.0
"""Seconds for what runs inside to end when it is asked to."""

libc = ctypes.CDLL(None, use_errno=True)

# A root that is a mount of its own, and no chroot: the kernel allows no user namespace in a chroot.
ENTER = """
set -eu
root=$1
shift
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
for name in proc sys dev; do mount --rbind "/$name" "$name"; done
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=0755 tmpfs run
while [ "$1" != -- ]; do
    mkdir -p "./$1"
    mount --bind "$1" "./$1"
    mount -o remount,bind,ro "./$1"
    shift
done
shift
pivot_root . .
umount -l .
exec chroot . "$@"
"""


def say(text: str) -> None:
    print(f"fresh: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    sys.exit(f"fresh: {text}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run mematlas and its tests in a minimal Debian root.")
    parser.add_argument("--suite", help="the release of Debian by its code name; without, that of this machine")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="run this alone, as root; after --")
    given = parser.parse_args()
    if os.geteuid():
        fail("needs root, for a mount namespace: sudo make fresh")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    subprocess.run([ROOT / "scripts" / "packages", "fresh"], check=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = make_archive(given.suite)
    steps = [("root", {}, words(given.command))] if given.command else STEPS
    with unpacked(archive) as root:
        environment, directories = take_along(root)
        clone(root)
        failed = []
        for user, more, line in steps:
            say(f"{user}: {line}")
            if run_inside(root, user, {**environment, **more}, directories, f"cd {CLONES[user]} && {line}"):
                failed.append(f"{user}: {line}")
                say(f"FAILED: {failed[-1]}")
    say(f"failed: {'; '.join(failed)}" if failed else "all passed")
    return int(bool(failed))


def words(command: Sequence[str]) -> str:
    """Return a command for a shell; one word is a line for it already."""
    return command[0] if len(command) == 1 else shlex.join(command)


# --- the root


def make_archive(suite: str | None) -> Path:
    """Return the archive of a minimal root; made when it is not there for these sources."""
    sources = apt_sources(suite)
    settings = APT_SETTINGS.finditer(output("apt-config", "dump", "--no-empty", "Acquire"))
    options = [f"--aptopt={match[0]}" for match in settings]
    name = suite or codename()
    state = hashlib.sha256(repr((PACKAGES, sources, options)).encode()).hexdigest()[:8]
    archive = CACHE / f"fresh-{name}-{state}.tar"
    if not archive.exists():
        say(f"making a minimal root of {name} with {PACKAGES}, once")
        part = archive.with_suffix(".part.tar")
        line = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", *options, name, str(part)]
        try:
            subprocess.run([*line, *sources], check=True)
            part.rename(archive)
        except subprocess.CalledProcessError:
            fail(f"mmdebstrap could not make a root of {name} from this machine's sources of apt")
        finally:
            part.unlink(missing_ok=True)
    return archive


def codename() -> str:
    """Return the code name of this machine's release."""
    release = Path("/etc/os-release").read_text()
    match = re.search(r"^VERSION_CODENAME=\"?(\w+)", release, re.MULTILINE)
    if match is None:
        fail("/etc/os-release has no VERSION_CODENAME: name one with --suite")
    return match[1]


def apt_sources(suite: str | None) -> list[str]:
    """Return this machine's sources of apt that are its distribution's, as lines; for another release the first."""
    form = "$(ORIGIN) deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = output("apt-get", "indextargets", "--format", form, "Identifier: Packages").splitlines()
    own = [line for line in dict.fromkeys(targets) if line.startswith(("Debian ", "Ubuntu "))]
    lines = [line.partition(" ")[2] for line in own]
    if not lines:
        fail("apt has no lists of Debian's packages: apt-get update")
    if suite and suite != codename():
        # Security has a server of its own, and unstable has none.
        kept = [line for line in lines if line.split()[2] == codename()]
        lines = [line.replace(f" {codename()} ", f" {suite} ") for line in kept]
    return lines


@contextlib.contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Unpack a root; it is gone at the end, and so is all that was started in it."""
    for stale in CACHE.glob("root-*"):
        with contextlib.suppress(OSError), held(stale):
            remove(stale)
    root = Path(tempfile.mkdtemp(prefix="root-", dir=CACHE))
    try:
        with held(root):
            say(f"unpacking {archive.name}")
            subprocess.run(["tar", "-xf", archive, "-C", root, "--exclude=./dev/*"], check=True)
            root.chmod(0o755)
            yield root
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        say("removing the root")
        remove(root)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a root, so that no other run takes it for left over; raises OSError when one has it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def remove(root: Path) -> None:
    # A run that was killed leaves its swap on, under the name that the file had in its namespace: until then it stays.
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        swap = root / line.split()[0].lstrip("/")
        if swap.is_file():
            subprocess.run(["swapoff", swap], check=True)
    # What is mounted in it is so in its own namespace only, which has ended; should that ever be wrong, rm stays here.
    subprocess.run(["rm", "-rf", "--one-file-system", root], check=True)


# --- what is taken along


def take_along(root: Path) -> tuple[dict[str, str], list[Path]]:
    """Copy into a root what this machine needs to get at packages; return its variables, and directories to bind."""
    environment = {name: value for name, value in os.environ.items() if VARIABLES.fullmatch(name)}
    files = [Path("/etc/resolv.conf"), Path("/etc/hosts"), *AUTHORITIES.glob("*.crt")]
    files += [Path(value) for value in environment.values() if value.startswith("/")]
    # The user's own is for all there.
    settings = [path for path in (name.expanduser() for name in PIP_FILES) if path.is_file()]
    directories = set()
    for setting in [*pip_values(settings), *environment.values()]:
        for word in setting.split():
            path = Path(word.removeprefix("file://"))
            is_path = word.startswith(("/", "file:///"))
            if is_path and path.is_dir() and not (root / str(path)[1:]).exists():
                # An index names files beside it.
                directories.add(path.parent if path.name == "simple" else path)
    for path in files:
        inside = root / str(path)[1:]
        if path.is_file() and (not inside.exists() or path.parent == Path("/etc")):
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.unlink(missing_ok=True)
            shutil.copyfile(path, inside)
    write_pip_settings(root / "etc" / "pip.conf", settings)
    copied = [path for path in files if path.is_file()]
    taken = ["the sources of apt", *map(str, settings), *map(str, copied)]
    say(f"taken along: {', '.join(dict.fromkeys(taken))}")
    say(f"taken along, read-only: {', '.join(map(str, sorted(directories))) or 'no directory'}")
    say(f"taken along: the variables {', '.join(sorted(environment)) or '(none)'}")
    environment |= {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    environment |= {"TERM": os.environ.get("TERM", "dumb")}
    return environment, sorted(directories)


def read_pip_settings(paths: Sequence[Path]) -> configparser.RawConfigParser:
    """Return pip's settings out of several files, later ones first in rank, as pip has it."""
    parser = configparser.RawConfigParser()
    parser.read(paths)
    return parser


def pip_values(paths: Sequence[Path]) -> list[str]:
    parser = read_pip_settings(paths)
    return [value for section in parser.sections() for value in parser[section].values()]


def write_pip_settings(path: Path, paths: Sequence[Path]) -> None:
    if paths:
        with open(path, "w") as file:
            read_pip_settings(paths).write(file)


def clone(root: Path) -> None:
    """Clone what is committed here, for root and for an ordinary user."""
    if output("git", "-C", str(ROOT), "status", "--porcelain"):
        say("what is not committed is not part of it")
    say(f"cloning {output('git', '-C', str(ROOT), 'log', '-1', '--format=%h %s').strip()}")
    script = f"update-ca-certificates >/dev/null 2>&1; useradd -m -s /bin/sh {USER}"
    subprocess.run(["chroot", root, "sh", "-c", script], check=True)
    for user, directory in CLONES.items():
        line = ["git", "clone", "-q", "--no-hardlinks", str(ROOT), f"{root}{directory}"]
        subprocess.run(line, check=True)
        subprocess.run(["chroot", root, "chown", "-R", f"{user}:", directory], check=True)


# --- inside


def run_inside(root: Path, user: str, environment: dict[str, str], directories: Sequence[Path], line: str) -> int:
    """Run a line of shell in a root as a user; return its exit code. Nothing that it started is left."""
    inside = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
    if user == "root":
        inside += ["HOME=/root", "sh", "-c", line]
    else:
        inside = ["runuser", "-u", user, "--", *inside, "HOME=/home/ann", f"USER={user}", "sh", "-c", line]
    words = ["sh", "-c", ENTER, "enter", str(root), *map(str, directories), "--", *inside]
    # A session of its own: what ends us reaches it through us alone, and we wait until it has put back what it changed.
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, preexec_fn=own_mounts, start_new_session=True)
    namespace = os.readlink(f"/proc/{process.pid}/ns/mnt")
    patience = 0.0
    try:
        return process.wait()
    except BaseException:
        # Not SIGINT, which a job in the background ignores. The shell ends at once, the tests when all is put back.
        os.killpg(process.pid, signal.SIGTERM)
        patience = PATIENCE
        raise
    finally:
        end_all(namespace, time.monotonic() + patience)
        process.wait()


def own_mounts() -> None:
    """Get a mount namespace of one's own; os.unshare() came with Python 3.12."""
    if libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")


def end_all(namespace: str, deadline: float) -> None:
    """Wait for all processes in a mount namespace, and end those that are late; with the last its mounts are gone."""
    while pids := [pid for pid in all_pids() if namespace_of(pid) == namespace]:
        for pid in pids if time.monotonic() > deadline else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def namespace_of(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return None


def output(*line: str) -> str:
    """Return what a program prints."""
    try:
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        fail(f"{line[0]}: {getattr(error, 'stderr', '') or error}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
