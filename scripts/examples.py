"""Make the examples in the documents anew: run the command lines in them, and put what they print in their place.

.venv/bin/python scripts/examples.py                     README.md and docs/*.md (as root)
.venv/bin/python scripts/examples.py docs/concepts.md    these

An HTML comment above a block of the kind `console` says what it needs:

<!-- example: draw 4840 0x7f8f25400000 -->     run each line after `$ ` (as root) or `user$ ` (as nobody) while `draw`
                                               (see CAST) is there. The numbers are its PID and what it said: those of
                                               this time take their place, in the block and here
<!-- example 100: sleep -->                    the same, on a terminal of 100 columns
<!-- shown: zoo 5150 5151 0x7fb48541e000 -->   run nothing: only the numbers change
<!-- by hand: a guest with two nodes -->       leave it alone, and why
<!-- file: zoo.py -->                          above a block of another kind: what the cast and the examples find there

Where an output has a line `...`, as many lines before the first and after the last of these are kept as there were. A
line that ends with `&` is not run: it is how a reader starts what the cast has started.

All of it runs in namespaces of its own, which the kernel ends with us: no process or mount is left, and the PIDs are
the same each time. A block whose cast cannot be had here stays as it is, and is named.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shlex
import signal
import site
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

from mematlas.kernel.swapfile import TemporarySwap

ROOT = Path(__file__).parents[1]
PYTHON = "/usr/bin/python3"
if Path(PYTHON).resolve().name != f"python{sys.version_info.major}.{sys.version_info.minor}":
    PYTHON = sys.executable
HOST = "atlas"
INSTALLED = "/opt/mematlas"
"""Where the reader has put the project."""
SWAP_SIZE = 64 << 20
MADE_READY = f"""set -e
hostname {HOST}
echo 4700 > /proc/sys/kernel/ns_last_pid
mount -t tmpfs none /dev/shm
mount --bind "$0" /var/tmp
echo there
read -r _"""
"""Run by the first process. What programs put into the directories of temporary files goes with us."""
FIRST_PID, PIDS_EACH = 4800, 20
AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all --"

JAVA = """class Ingest {
    public static void main(String[] words) throws Exception {
        byte[][] kept = new byte[96][1 << 20];
        Thread.sleep(1 << 30);
        System.out.println(kept.length);
    }
}"""
NODE = "const kept = Buffer.alloc(48 << 20, 1); setInterval(() => kept, 1e9)"
POSTGRES = f"""PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); mkdir db; chown 65534 db
{AS_NOBODY} initdb --no-sync -D db
exec {AS_NOBODY} postgres -D db -c unix_socket_directories= -c port=5488 -c shared_buffers=64MB"""
CAST = {
    "sleep": ("sleep", "exec sleep 300"),
    "draw": ("mematlas", "exec mematlas workload draw"),
    "node": ("node", f"exec node -e '{NODE}'"),
    "postgres": ("postgres", POSTGRES),
    "redis": ("redis-server", "exec redis-server --port 0 --unixsocket redis.sock --save ''"),
    "java": ("java", f"echo '{JAVA}' > Ingest.java; javac Ingest.java; exec java -cp . Ingest"),
    "cache": ("python3", f"exec {PYTHON} cache.py"),
    "zoo": ("python3", f"exec {PYTHON} zoo.py"),
    "user-zoo": ("python3", f"exec {AS_NOBODY} {PYTHON} zoo.py"),
    "user-nap": ("nap", f"cp /bin/sleep nap; exec {AS_NOBODY} ./nap 300"),
    **{
        name: (name, f"exec {PYTHON} {ROOT}/scripts/cast.py {name}")
        for name in ("shop", "partial", "reserve", "growing", "clonevm", "huge", "tables")
    },
}
"""The name of each process, and what starts it. What it says first has the numbers."""
LINES = {"draw": "Draw 12\n"}
"""What is typed to it."""
NUMBER = re.compile(r"\b(?:0x[0-9a-f]{6,}|\d{4})\b")
NEAR = 64 << 20
"""How far above such an address one may lie that moves with it."""
PLACES = re.compile(r"^(\w+)-.*(?:\[heap\]$| r-xp .*/libc\.so)", re.MULTILINE)
"""The heap and the code of the C library come after what a process says of itself."""

BLOCK = re.compile(
    r"<!-- (?P<kind>example|shown|by hand|file)(?P<columns> \d+)?:(?P<what>.*?) *-->\n"
    r"```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PROMPT = re.compile(r"(user)?\$ (.*)")


class CannotBeHad(Exception):
    """Somebody of the cast is not here."""


class Stage:
    """Namespaces in which the cast lives and the command lines run: the kernel ends them with our end of a pipe."""

    def __init__(self, directory: Path, on_disk: str) -> None:
        self.directory = directory
        self.cast: dict[str, list[str]] = {}
        self._pipes: list[subprocess.Popen[str]] = []
        # The interpreter of .venv may be in a home directory, where nobody else gets in.
        programs = directory / "bin"
        programs.mkdir()
        (programs / "python").symlink_to(PYTHON)
        (programs / "mematlas").write_text(
            f"#!{PYTHON}\nfrom mematlas.cli import console\nconsole()\n", encoding="utf-8"
        )
        (programs / "mematlas").chmod(0o755)
        self._environment = {
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": ":".join([str(ROOT / "src"), *site.getsitepackages()]),
            "HOME": str(directory),
            "PYTHONUTF8": "1",
            "NO_COLOR": "1",
            "TERM": "xterm",
        }
        words = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--kill-child", "sh", "-c"]
        self._first = self._start([*words, MADE_READY, on_disk])
        assert self._first.stdout
        self._first.stdout.readline()
        inside = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text(encoding="ascii").split()[0]
        self._enter = ["nsenter", f"--target={inside}", "--pid", "--mount", "--uts", f"--wd={directory}", "--"]

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc: object) -> None:
        for program in (self._first, *self._pipes):
            program.communicate()

    def _start(self, words: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def bring(self, name: str) -> list[str]:
        """Start somebody of the cast, once; return its PID and the numbers that it says."""
        if name not in self.cast:
            self.cast[name] = self._bring(name)
        return self.cast[name]

    def _bring(self, name: str) -> list[str]:
        comm, line = CAST[name]
        before = FIRST_PID + PIDS_EACH * list(CAST).index(name) - 1
        said = self.directory / f".{name}"
        script = f"exec 3<&0; echo {before} > /proc/sys/kernel/ns_last_pid; ({line}) <&3 >{said} 2>&1 & echo $!"
        program = self._start([*self._enter, "sh", "-c", script])
        self._pipes.append(program)
        assert program.stdin
        assert program.stdout
        pid = program.stdout.readline().strip()
        program.stdin.write(LINES.get(name, ""))
        program.stdin.flush()
        self._wait_until_still(pid, comm, said)
        maps, _ = self.run(f"cat /proc/{pid}/maps")
        numbers = NUMBER.findall(said.read_text(encoding="utf-8", errors="replace"))
        return list(dict.fromkeys([pid, *numbers, *(f"0x{start}" for start in PLACES.findall(maps))]))

    def _wait_until_still(self, pid: str, comm: str, said: Path) -> None:
        """Wait until the process has become the program that is meant, and does nothing more."""
        deadline = time.monotonic() + 60
        last: object = None
        while time.monotonic() < deadline:
            state, _ = self.run(f"cat /proc/{pid}/comm && cut -d' ' -f 3,14-17 /proc/{pid}/stat")
            if state == last and state.startswith(f"{comm}\n"):
                return
            if "No such" in state or "\nZ" in state:
                raise CannotBeHad(said.read_text(encoding="utf-8", errors="replace").strip() or f"no {comm}")
            last = state
            time.sleep(0.5)
        raise CannotBeHad(f"{comm} does not come to rest")

    def run(self, line: str, as_nobody: bool = False, status: int = 0, columns: int = 0) -> tuple[str, int]:
        """Run a line of shell, as if after one with this exit code; return all that it prints, and its own.

        It prints on a terminal of so many columns, if any.
        """
        words = [*self._enter, *(shlex.split(AS_NOBODY) if as_nobody else [])]
        words += ["bash", "-c", f"(exit {status})\n{line}"]
        if columns:
            text, code = on_terminal(words, columns, self._environment)
        else:
            done = subprocess.run(
                words,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=120,
            )
            text, code = done.stdout, done.returncode
        text = re.sub(rf"{self.directory}/bin|{ROOT}/.venv/bin", f"{INSTALLED}/.venv/bin", text)
        return text.replace(str(ROOT), INSTALLED).replace(str(self.directory), "/tmp"), code


def on_terminal(words: list[str], columns: int, environment: dict[str, str]) -> tuple[str, int]:
    """Run a program on a terminal of its own; return what it prints there, and its exit code."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (50, columns))
    with subprocess.Popen(words, env=environment, stdin=its, stdout=its, stderr=its, start_new_session=True) as program:
        os.close(its)
        pieces = []
        with contextlib.suppress(OSError):  # the terminal ends with whoever has it
            while piece := os.read(ours, 1 << 16):
                pieces.append(piece)
    os.close(ours)
    return b"".join(pieces).decode("utf-8", "replace").replace("\r\n", "\n"), program.returncode


def main(words: list[str]) -> int:
    """Make the examples of these pages, or of all."""
    pages = [Path(word) for word in words] or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    with TemporarySwap(SWAP_SIZE):
        for page in pages:
            before = page.read_text(encoding="utf-8")
            if "<!-- example:" in before:
                page.write_text(remade(page.name, before), encoding="utf-8")
    return 0


def remade(name: str, text: str) -> str:
    """Return a page with its examples made anew, by a cast of its own."""
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory(dir="/var/tmp") as on_disk:
        directory = Path(made)
        directory.chmod(0o777)
        with Stage(directory, on_disk) as stage:
            return BLOCK.sub(lambda block: remade_block(name, stage, block), text)


def remade_block(page: str, stage: Stage, block: re.Match[str]) -> str:
    """Return a block with its comment, made anew if it can be."""
    kind, what, language, text = block.group("kind", "what", "language", "text")
    columns = block.group("columns") or ""
    if kind == "file":
        (stage.directory / what.strip()).write_text(text, encoding="utf-8")
    if kind not in ("example", "shown"):
        return block[0]
    numbers: dict[str, str] = {}
    cast = []
    try:
        for entry in filter(None, map(str.split, what.split(";"))):
            new = stage.bring(entry[0])
            numbers |= dict(zip(entry[1:], new, strict=False))
            cast.append(" ".join([entry[0], *new[: len(entry) - 1]]))
        text = replaced(text, numbers)
        if kind == "example":
            text = "".join(outputs(stage, text, int(columns or 0)))
    except CannotBeHad as error:
        print(f"{page}: left as it was, for want of {what.strip()}: {error}", file=sys.stderr)
        return block[0]
    return f"<!-- {kind}{columns}:{' ' * bool(cast)}{'; '.join(cast)} -->\n```{language}\n{text}```"


def replaced(text: str, numbers: dict[str, str]) -> str:
    """Return a text with other numbers in the place of those that stand there, and of addresses not far above them.

    >>> replaced("usage 12 0x1000+4M 0x2abc", {"12": "34", "0x1000": "0x7000"})
    'usage 34 0x7000+4M 0x8abc'
    """
    moved = {int(old, 16): int(new, 16) for old, new in numbers.items() if old.startswith("0x")}

    def new(word: re.Match[str]) -> str:
        if not word[0].startswith("0x"):
            return numbers.get(word[0], word[0])
        address = int(word[0], 16)
        below = max((old for old in moved if 0 <= address - old < NEAR), default=None)
        return word[0] if below is None else f"{address - below + moved[below]:#x}"

    return re.sub(r"\b(?:0x[0-9a-f]+|\w+)\b", new, text)


def outputs(stage: Stage, text: str, columns: int) -> Iterator[str]:
    """Yield the command lines of a block, and what each prints now."""
    status = 0
    for line, old in commands(text):
        yield line
        prompt = PROMPT.match(line.replace("\\\n", ""))
        if prompt is None or prompt[2].endswith("&"):
            yield old
            continue
        output, status = stage.run(prompt[2], bool(prompt[1]), status, columns)
        yield shortened(output, old)


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield the command lines of a block, each with what stands below it.

    >>> list(commands("$ a\\nb\\n$ c\\n"))
    [('$ a\\n', 'b\\n'), ('$ c\\n', '')]
    """
    parts = re.split(r"^((?:user)?\$ (?:.*\\\n)*.*\n)", text, flags=re.MULTILINE)
    yield from (
        zip(["", *parts[1::2]], parts[0::2], strict=True) if parts[0] else zip(parts[1::2], parts[2::2], strict=True)
    )


def shortened(new: str, old: str) -> str:
    """Return an output with as many lines around the ``...`` as there were.

    >>> shortened("1\\n2\\n3\\n4\\n", "a\\n...\\nd\\n")
    '1\\n...\\n4\\n'
    """
    lines, was = new.splitlines(keepends=True), old.splitlines()
    if "..." not in was:
        return new
    head, tail = was.index("..."), was[::-1].index("...")
    return new if len(lines) <= head + tail else "".join([*lines[:head], "...\n", *lines[len(lines) - tail :]])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
