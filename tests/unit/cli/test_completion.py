"""Completion scripts know every command and option; each shell runs its own."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mematlas.cli import main
from mematlas.cli.command import COMMANDS, PREFIXES
from mematlas.cli.completion import SHELLS
from mematlas.cli.selection import KIND_TEXTS
from mematlas.cli.shells import all_syntax
from mematlas.kernel.maps import KINDS
from mematlas.labs.lessons import LESSONS
from mematlas.labs.workload import WORKLOADS
from mematlas.observe.sources import SOURCES
from victim import DEADLINE, Victim


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


def in_fish(path: Path, line: str) -> dict[str, str]:
    """Return what fish offers for the last word of a line, each with its description."""
    found = output("fish", "--no-config", "-c", f"set -x HOME {path.parent}; source {path}; complete -C $argv[1]", line)
    return {word: text for word, _, text in (each.partition("\t") for each in found)}


ZSH = r"""
zmodload zsh/zpty || exit 3
mkfifo $2/hits
zpty z zsh -f -i
zpty -w z "PS1=; autoload -U compinit; compinit -u -D; source $1; cd $2; HITS=$2/hits; source $2/capture"
zpty -w -n z "$3"$'\t'
cat $2/hits
zpty -d z
"""
CAPTURE = r"""
exec 9>$HITS
compadd() {
    if (( ${@[(I)-(O|A|D)*]} )); then
        builtin compadd "$@"
        return
    fi
    local -a hits
    builtin compadd -O hits "$@"
    local hit
    for hit in $hits; do print -r -u 9 -- "${curtag:-none} $hit"; done
    (( $#hits ))
}
finished() { exec 9>&- }
comppostfuncs=(finished)
bindkey '^I' complete-word
"""


def in_zsh(path: Path, line: str) -> dict[str, str]:
    """Return what zsh offers for the last word of a line, each with the tag of its group: a TAB is typed for that."""
    place = path.parent
    (place / "capture").write_text(CAPTURE)
    (place / "hits").unlink(missing_ok=True)
    command = ["zsh", "-f", "-c", ZSH, "zsh", str(path), str(place), line]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    if done.returncode == 3:
        pytest.skip("needs the module zsh/zpty")
    return {word: tag for tag, _, word in (each.partition(" ") for each in done.stdout.splitlines())}


def offered(shell: str, path: Path, line: str) -> set[str]:
    """Return what a shell offers for the last word of a line, whole."""
    last = line.rpartition(" ")[2]
    if shell == "bash":
        # bash cuts a line at = too; the word after one is what it completes.
        found = set(in_bash(path, *re.findall(r"=|[^ =]+|(?<= )$", line)))
    elif shell == "fish":
        found = set(in_fish(path, line))
    else:
        # zsh keeps what comes before the last comma, =, or slash for itself.
        before = re.sub(r"[^,/]*$", "", last.rpartition("=")[2])
        found = {before + word for word in in_zsh(path, line)}
    return {re.sub(r"^--[a-z]+=(?=.)", "", word).rstrip("/=") for word in found}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_finds_no_fault(shell: str, script: Callable[[str], Path]) -> None:
    assert output(shell, "-n", str(script(shell))) == []


def test_another_shell_is_refused() -> None:
    assert main(["completion", "tcsh"]) == 2


def test_no_numpy_is_imported() -> None:
    code = "import sys; from mematlas.cli import main; main(['completion', 'bash']); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


# what each shell offers, for real

LINES: tuple[tuple[str, set[str]], ...] = (
    ("mematlas us", {"usage"}),
    ("mematlas he", {"help"}),
    ("mematlas help op", {"options"}),
    ("mematlas help us", {"usage"}),
    ("mematlas usage --so", {"--source"}),
    ("mematlas usage --source ", set(SOURCES)),
    ("mematlas usage --source=p", {"pagemap"}),
    ("mematlas usage --json sel", {"self"}),
    ("mematlas usage 1 sel", {"self"}),
    ("mematlas usage -p sel", {"self"}),
    ("mematlas usage cmdli", {"cmdline:"}),
    ("mematlas usage 1 cgrou", {"cgroup:"}),
    ("mematlas usage uni", {"unit:"}),
    ("mematlas maps -p pid", {"pid:"}),
    ("mematlas maps --kind ", set(KINDS)),
    ("mematlas maps --kind anon,h", {"anon,heap", "anon,hugetlb"}),
    ("mematlas maps --kind=anon,stack,hu", {"anon,stack,hugetlb"}),
    ("mematlas maps 1 hea", {"heap"}),
    ("mematlas pageout --state present,sw", {"present,swapped"}),
    ("mematlas tables 1 --level pu", {"pud"}),
    ("mematlas lab f", {name for name in LESSONS if name.startswith("f")}),
    ("mematlas demo ", {"tour", "paging"}),
    ("mematlas workload ", set(WORKLOADS)),
    ("mematlas completion ", set(SHELLS)),
    ("mematlas capture 1 /pro", {"/proc"}),
    ("mematlas cache /proc/versio", {"/proc/version"}),
    ("mematlas cache 1 file:/proc/versio", {"file:/proc/version"}),
    ("mematlas cache file", {"file:"}),
    ("mematlas usage file", set()),
    ("mematlas pageout file", {"file:"}),
    ("mematlas pageout file:/proc/versio", {"file:/proc/version"}),
    ("mematlas --lim", {"--limit"}),
    ("mematlas --vers", {"--version"}),
    ("mematlas --json --lim", {"--limit"}),
    ("mematlas --sort us", {"uss"}),
    ("mematlas doctor x", set()),
)


@pytest.mark.parametrize("shell", SHELLS)
def test_every_word_is_completed(shell: str, script: Callable[[str], Path]) -> None:
    path = script(shell)

    assert [(line, found) for line, words in LINES if (found := offered(shell, path, line)) != words] == []


@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_is_completed(shell: str, script: Callable[[str], Path]) -> None:
    path = script(shell)
    syntax = {command.name: {name for option in command.options for name in option.names} for command in all_syntax()}

    for command in ("usage", "pages", "tables", "pageout"):
        assert offered(shell, path, f"mematlas {command} --") == {name for name in syntax[command] if name[1] == "-"}


@pytest.mark.parametrize("shell", SHELLS)
def test_processes_are_offered_by_pid_and_by_name(shell: str, script: Callable[[str], Path]) -> None:
    path = script(shell)
    with Victim() as victim:
        pid = str(victim.pid)
        victim.tell("rename", name=f"v{pid}")
        for line in ("mematlas usage ", "mematlas usage 1 ", "mematlas maps -p ", "mematlas map --pid="):
            assert pid in offered(shell, path, line + pid[:-1])
            assert offered(shell, path, f"{line}v{pid[:-1]}") >= {f"v{pid}"}
            assert pid not in offered(shell, path, line)


def test_zsh_keeps_pids_and_names_apart(script: Callable[[str], Path]) -> None:
    path = script("zsh")
    with Victim() as victim:
        pid = str(victim.pid)
        victim.tell("rename", name=f"v{pid}")

        assert in_zsh(path, f"mematlas usage {pid[:-1]}")[pid] == "processes"
        assert in_zsh(path, f"mematlas usage v{pid[:-1]}")[f"v{pid}"] == "names"


def test_values_have_descriptions_of_their_own(script: Callable[[str], Path]) -> None:
    fish = script("fish")
    zsh = script("zsh").read_text()

    sources = in_fish(fish, "mematlas usage --source ")
    assert len(set(sources.values())) == len(SOURCES)
    assert in_fish(fish, "mematlas maps --kind he") == {"heap": KIND_TEXTS["heap"]}
    assert in_fish(fish, "mematlas lab zer") == {"zero": LESSONS["zero"].title}
    assert f"heap[{KIND_TEXTS['heap']}]" in zsh
    assert "smaps\\:" in zsh
    assert f"compadd -S '' -- {' '.join(PREFIXES)}" in zsh


@pytest.mark.parametrize("line", [("cache", "file", ":", "/proc/versio"), ("willneed", "file", ":", "/proc/versio")])
def test_bash_completes_a_file_behind_a_colon_that_it_cuts_at(
    line: tuple[str, ...], script: Callable[[str], Path]
) -> None:
    assert in_bash(script("bash"), "mematlas", *line) == ["/proc/version"]
    assert "src" in in_bash(script("bash"), "mematlas", line[0], "file", ":")


def test_bash_completes_programs_after_two_dashes(script: Callable[[str], Path]) -> None:
    assert "bash" in in_bash(script("bash"), "mematlas", "usage", "--", "bas")


@pytest.mark.parametrize("shell", SHELLS)
def test_no_control_character_of_a_name_is_offered(shell: str, script: Callable[[str], Path]) -> None:
    path = script(shell)
    with Victim() as victim:
        mark = f"n{victim.pid}"  # 15 bytes are kept of a name
        victim.tell("rename", name=f"{mark}\x1b]\x07\u202e")
        assert not [word for word in offered(shell, path, "mematlas usage ") if mark in word]
        assert str(victim.pid) in offered(shell, path, f"mematlas usage {victim.pid}")
        if shell != "bash":
            described = (in_fish if shell == "fish" else in_zsh)(path, f"mematlas usage {victim.pid}")
            assert "\x1b" not in "".join(described.values())


@pytest.mark.parametrize("name", [b"\xff\xfe\x80", b"\0", b"@", b"*", b"a]=$b["], ids=["bytes", "empty", "@", "*", "]"])
@pytest.mark.parametrize("shell", SHELLS)
def test_name_of_any_bytes_spoils_no_other(shell: str, name: bytes, script: Callable[[str], Path]) -> None:
    path = script(shell)
    program = f"open('/proc/self/comm', 'wb').write({name!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as odd:
        assert odd.stdout
        odd.stdout.readline()
        with Victim() as victim:
            assert str(victim.pid) in offered(shell, path, f"mematlas usage {victim.pid}")
            assert str(odd.pid) in offered(shell, path, f"mematlas usage {odd.pid}")
            assert "self" in offered(shell, path, "mematlas usage se")
        odd.kill()


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


def test_a_tab_typed_in_bash_completes(script: Callable[[str], Path]) -> None:
    parent, child = pty.openpty()
    path = script("bash")
    environment = {**os.environ, "PS1": "", "INPUTRC": "/dev/null", "TERM": "dumb"}
    command = ["bash", "--norc", "--noprofile", "-i"]
    with subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True
    ) as shell:
        os.close(child)
        try:
            os.write(parent, f"source {path}; echo re''ady\n".encode())
            read_until(parent, b"\nready")
            os.write(parent, b"mematlas workload pro\t")
            read_until(parent, b"prober ")
            os.write(parent, b"\x15mematlas usage cmdli\tjar")
            read_until(parent, b"cmdline:jar")
        finally:
            shell.kill()
            os.close(parent)


def read_until(fd: int, text: bytes) -> None:
    """Read what a terminal shows until it has a text."""
    found = b""
    while text not in found.replace(b"\r", b""):
        assert select.select([fd], [], [], DEADLINE)[0], found
        found += os.read(fd, 4096)


def test_kinds_of_vmas_have_texts() -> None:
    assert tuple(KIND_TEXTS) == KINDS


def test_words_follow_their_command() -> None:
    words = {command.name: [values.kind or set(values.texts) for values in command.words] for command in all_syntax()}
    assert words["usage"] == ["target"]
    assert words["cache"] == ["target or path"]
    assert words["pageout"][0] == "target or file:"
    assert words["cold"][0] == "target"
    assert words["maps"] == ["target", set(KINDS)]
    assert words["capture"] == ["target", "directory"]
    assert words["doctor"] == []
    assert set(COMMANDS) | {"help", "overview"} == set(words)
