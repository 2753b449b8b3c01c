"""The C programs in bench/c: compiled on demand, and run as children that cannot outlive us."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "c"
BIN = SOURCES.parent / "bin"
CFLAGS = ("-O2", "-Wall", "-Wextra")

# A child that held 4 GiB needs a second to give it back; a minute means that it hangs.
END_TIMEOUT_S = 60


class ProgramError(Exception):
    """A program of the bench does not compile, start or answer."""


def build() -> None:
    """Compile every program whose source, or the header, is newer than its binary."""
    BIN.mkdir(exist_ok=True)
    header = max(path.stat().st_mtime for path in SOURCES.glob("*.h"))
    for source in sorted(SOURCES.glob("*.c")):
        binary = BIN / source.stem
        if not binary.exists() or binary.stat().st_mtime < max(source.stat().st_mtime, header):
            compile_program(source, binary)


def compile_program(source: Path, binary: Path) -> None:
    """Compile one source file; a warning is not an error, but it is shown."""
    try:
        subprocess.run(["gcc", *CFLAGS, "-o", str(binary), str(source)], check=True)
    except FileNotFoundError:
        raise ProgramError("gcc is not installed (needed for bench/c)") from None
    except subprocess.CalledProcessError:
        raise ProgramError(f"{source.name} does not compile") from None


class Child:
    """A running program that talks by lines and ends when its stdin is closed."""

    def __init__(self, argv: Sequence[str]) -> None:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        self._name = Path(argv[0]).name
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def read_line(self) -> str:
        """Return the next line of its output; none left means that it has died."""
        line = self._stdout.readline()
        if not line:
            raise ProgramError(f"{self._name} ended without an answer")
        return line.rstrip("\n")

    def wait_until_ready(self) -> None:
        """Wait for the line "ready", which comes when the memory is as promised."""
        while self.read_line() != "ready":
            pass

    def ask(self, line: str) -> str:
        """Send one line and return the one that answers it."""
        try:
            self._stdin.write(line + "\n")
            self._stdin.flush()
        except BrokenPipeError:
            raise ProgramError(f"{self._name} ended before it was asked") from None
        return self.read_line()

    def close_stdin(self) -> None:
        """Ask it to stop. It may answer with a last line before it ends."""
        self._stdin.close()

    def end(self) -> None:
        """Stop it, and leave nothing behind."""
        self._stdin.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()


@contextmanager
def running(argv: Sequence[str]) -> Iterator[Child]:
    """Run a program for the length of a block."""
    child = Child(argv)
    try:
        yield child
    finally:
        child.end()
