"""Completion scripts know every command and option; each shell runs its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mematlas.cli import main
from mematlas.cli.command import COMMANDS
from mematlas.cli.completion import Syntax, syntax_of
from mematlas.kernel.maps import KINDS
from victim import DEADLINE, Victim

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that makes the script of a shell; skips without that shell."""

    def make(shell: str) -> Path:
        if not shutil.which(shell):
            pytest.skip(f"needs {shell}")
        assert main(["completion", shell]) == 0
        path = tmp_path / f"completion.{shell}"
        path.write_text(capsys.readouterr().out)
        return path

    return make


def output(*words: str) -> list[str]:
    """Return the lines that a program prints."""
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def in_bash(path: Path, *line: str) -> list[str]:
    """Return what bash offers for the last word of a command line."""
    code = f'source {path}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _mematlas; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return [line for line in output("bash", "--norc", "-c", code, "bash", *line) if line]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_there(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert name in text
        for option in syntax_of(name).options:
            for spelling in option.names:
                assert (
                    spelling in text or (shell == "fish" and f"-l {spelling.lstrip('-')}" in text) or len(spelling) == 2
                )


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_finds_no_fault(shell: str, script: Callable[[str], Path]) -> None:
    assert output(shell, "-n", str(script(shell))) == []


def test_another_shell_is_refused() -> None:
    assert main(["completion", "tcsh"]) == 2


def test_no_numpy_is_imported() -> None:
    code = "import sys; from mematlas.cli import main; main(['completion', 'bash']); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


# bash, for real

LINES: tuple[tuple[tuple[str, ...], list[str]], ...] = (
    (("us",), ["usage"]),
    (("usage", "--so"), ["--source"]),
    (("usage", "--source", ""), ["auto", "smaps", "pagemap", "tables"]),
    (("usage", "--source", "=", "p"), ["pagemap"]),
    (("usage", "--json", "sel"), ["self"]),
    (("maps", "--kind", "hu"), ["hugetlb"]),
    (("maps", "1", ""), []),
    (("capture", "1", "/pro"), ["/proc"]),
    (("completion", ""), ["bash", "zsh", "fish"]),
    (("workload", "pro"), ["prober"]),
    (("usage", "--", "bas"), ["bash"]),
)


@pytest.mark.parametrize(("line", "offered"), LINES, ids=[" ".join(line) for line, _ in LINES])
def test_bash_completes(line: tuple[str, ...], offered: list[str], script: Callable[[str], Path]) -> None:
    found = in_bash(script("bash"), "mematlas", *line)
    assert found == offered or (line[-2:] == ("--", "bas") and "bash" in found)


def test_bash_offers_processes_by_pid_and_by_name(script: Callable[[str], Path]) -> None:
    with Victim() as victim:
        name = Path(f"/proc/{victim.pid}/comm").read_text().strip()
        assert str(victim.pid) in in_bash(script("bash"), "mematlas", "usage", str(victim.pid)[:-1])
        assert name in in_bash(script("bash"), "mematlas", "usage", name[:3])
        assert str(victim.pid) in in_bash(script("bash"), "mematlas", "usage", "-p", str(victim.pid))


def test_bash_runs_nothing_that_a_process_is_called(script: Callable[[str], Path], tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    name = "$(>proof)`id`"
    program = f"import sys; open('/proc/self/comm', 'w').write({name!r}); print(flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, cwd=tmp_path) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            path = script("bash")
            code = f'cd {tmp_path}; source {path}; COMP_WORDS=(mematlas usage "$1"); COMP_CWORD=2; _mematlas'
            lines = output("bash", "--norc", "-c", f'{code}; printf "%s\\n" "${{COMPREPLY[@]}}"', "bash", "$")
            assert "\\$\\(\\>proof\\)\\`id\\`" in lines
            assert not proof.exists()
        finally:
            process.kill()


ZSH_TARGETS = """
source <(sed '/^if .*funcstack/,$d' "$1")
_describe() { print -rl -- "${pids[@]}" }
compadd() { [[ $1 == -a ]] && print -rl -- "${names[@]}" }
_directories() { : }
_mematlas_targets
"""
"""What zsh would offer as a target, printed."""


@pytest.mark.parametrize("shell", SHELLS)
def test_no_control_character_of_a_name_is_offered(shell: str, script: Callable[[str], Path], tmp_path: Path) -> None:
    path = str(script(shell))
    with Victim() as victim:
        mark = f"n{victim.pid}"  # 15 bytes are kept of a name
        victim.tell("rename", name=f"{mark}\x1b]\x07\u202e")
        if shell == "bash":
            lines = in_bash(Path(path), "mematlas", "usage", "")
        elif shell == "fish":
            code = f"set -x HOME {tmp_path}; source {path}; complete -C 'mematlas usage '"
            lines = output("fish", "--no-config", "-c", code)
        else:
            lines = output("zsh", "-f", "-c", ZSH_TARGETS, "zsh", path)
        assert str(victim.pid) in {line.partition(":")[0].partition("\t")[0] for line in lines}
    assert not [line for line in lines if mark in line]


# fish, for real


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mematlas us", {"usage"}),
        ("mematlas usage --sourc", {"--source"}),
        ("mematlas usage --source ", {"auto", "smaps", "pagemap", "tables"}),
        ("mematlas workload ", {"singlemap", "multimap", "prober", "draw"}),
        ("mematlas completion ", set(SHELLS)),
        ("mematlas maps --kind ", set(KINDS)),
        ("mematlas usage sel", {"self"}),
    ],
)
def test_fish_completes(line: str, offered: set[str], script: Callable[[str], Path], tmp_path: Path) -> None:
    code = f"set -x HOME {tmp_path}; source {script('fish')}; complete -C '{line}'"
    assert {found.split("\t")[0] for found in output("fish", "--no-config", "-c", code)} >= offered


# zsh, for real

ZPTY = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1='> '; autoload -U compinit; compinit -u -D; source $1; cd $2; print re''ady"
zpty -r -m z text '*ready*' || exit 3
zpty -w -n z "$3"$'\\t'
repeat 100; do
    sleep 0.1
    zpty -r -t z text && print -rn -- "$text"
    [[ $text == *"$4"* ]] && break
done
zpty -d z
"""


def test_zsh_completes(script: Callable[[str], Path], tmp_path: Path) -> None:
    path = script("zsh")
    words = (str(path), str(tmp_path), "mematlas workload pro", "prober")
    command = ["zsh", "-f", "-c", ZPTY, "zsh", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    if "zsh/zpty" in done.stderr:
        pytest.skip("needs the module zsh/zpty")
    assert "prober" in done.stdout


def test_words_follow_their_command() -> None:
    words: dict[str, Syntax] = {name: syntax_of(name) for name in COMMANDS}
    assert words["usage"].words == ["target"]
    assert words["capture"].words == ["target", "directory"]
    assert words["doctor"].words == []
    assert words["completion"].words == [SHELLS]
