"""Help: its shape, and that the lines it gives to type can be typed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import mematlas
from mematlas.cli.arguments import Arguments
from mematlas.cli.command import COMMANDS, load
from mematlas.cli.command_help import TOPIC_TEXTS, command_text, common_options, targets_topic
from mematlas.cli.help import NAMES_ALONE, TOPICS, overview_text, short_overview_text
from mematlas.timeline import stream
from mematlas.timeline.recording import Recording
from victim import DEADLINE, Victim

ALL = (*COMMANDS, "overview")
SCREEN_WIDTH, SCREEN_LINES = 80, 24


@pytest.mark.parametrize("name", ALL)
def test_short_help_of_a_command_fits_a_screen(name: str) -> None:
    short, long = (command_text(name, SCREEN_WIDTH, short).splitlines() for short in (True, False))

    assert [line for line in long if len(line) > SCREEN_WIDTH and not line.startswith("  mematlas")] == []
    assert len(short) < SCREEN_LINES
    # Values that an option takes may be left out, at the end of its text.
    others = [line for line in short if not any(each.startswith(line) for each in long)]
    assert others in ([], [f"All options: mematlas {name} --help"])


def test_help_has_the_values_that_an_option_takes() -> None:
    words = " ".join(command_text("cache", SCREEN_WIDTH).split())

    assert (
        "(default: resident): resident, mapped, dirty, writeback, evicted, recently_evicted, swap, size, path" in words
    )


def test_short_help_is_whole_where_that_fits() -> None:
    assert mematlas("doctor", "-h").stdout == mematlas("doctor", "--help").stdout
    assert len(mematlas("tables", "-h").stdout) < len(mematlas("tables", "--help").stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_what_the_command_is_for(name: str) -> None:
    first, second, *_ = command_text(name, 200).splitlines()

    assert first == f"mematlas {name}: {COMMANDS[name][1]}"
    assert second.startswith(f"usage: mematlas {name} ")


@pytest.mark.parametrize("name", ALL)
def test_every_help_has_examples(name: str) -> None:
    assert 2 <= len(load(name).examples) <= 3


@pytest.mark.parametrize("name", ALL)
def test_every_option_has_a_line_in_a_help(name: str) -> None:
    arguments = Arguments()
    load(name).add_arguments(arguments)
    texts = command_text(name, 0) + TOPIC_TEXTS["options"](0)

    assert [option for option in arguments.names() if not re.search(rf"^  .*{option}\b", texts, re.MULTILINE)] == []


def test_no_list_of_values_is_cut_short() -> None:
    helps = [str(settings.get("help")) for name in ALL for settings in declared(name)]

    assert [text for text in helps if re.search(r", \.\.\.$", text)] == []


def declared(name: str) -> list[dict[str, object]]:
    arguments = Arguments()
    load(name).add_arguments(arguments)
    return [settings for _, settings in arguments.declared]


def test_common_options_are_explained_once_and_in_full() -> None:
    names = [names for names, _ in common_options()]

    assert len(names) == len(set(names))
    assert {"--format", "--json", "-i", "-p"} <= {name for each in names for name in each}


@pytest.mark.parametrize("make", [overview_text, short_overview_text])
def test_the_first_help_names_all_commands_and_topics(make: Callable[[int], str]) -> None:
    text = make(SCREEN_WIDTH)

    assert [name for name in (*COMMANDS, *TOPICS) if not re.search(rf"\b{name}\b", text)] == []
    assert max(map(len, text.splitlines())) <= SCREEN_WIDTH
    assert "mematlas help COMMAND" in text
    assert tuple(TOPIC_TEXTS) == TOPICS


def test_the_first_help_fits_a_screen_where_it_is_asked_for_by_a_letter() -> None:
    short, long = mematlas("-h", env={"COLUMNS": "80"}).stdout, mematlas("--help").stdout

    assert len(short.splitlines()) < SCREEN_LINES
    explained = {name: text for name, (group, text) in COMMANDS.items() if group not in NAMES_ALONE}
    assert [name for name, text in explained.items() if f" {name:<10} {text}\n" not in short] == []
    assert "TARGET: " in short
    assert ("Exit codes" in short, "Exit codes" in long) == (False, True)


@pytest.mark.parametrize("width", [40, 48, 60, 77, 78, 80])
@pytest.mark.parametrize("make", [targets_topic, short_overview_text])
def test_help_is_no_wider_than_the_screen(make: Callable[[int], str], width: int) -> None:
    assert max(map(len, make(width).splitlines())) <= width


@pytest.mark.parametrize(("words", "same"), [(["--help"], ["help"]), (["maps", "1", "--help"], ["help", "maps"])])
def test_help_is_asked_for_in_several_ways(words: list[str], same: list[str]) -> None:
    assert mematlas(*words).stdout == mematlas(*same).stdout != ""


def test_help_of_what_follows_two_dashes_is_not_ours() -> None:
    run = mematlas("usage", "--after", "0", "--json", "--", "sh", "-c", "sleep 3", "--help")

    assert json.loads(run.stdout)["rows"]


# --- the examples

PREAMBLE = 'mematlas() { "$PYTHON" -m mematlas "$@"; }\n'
ACTS = [name for name, (group, _) in COMMANDS.items() if group == "Act"]
BY_FRAMES = ("share", "owner")
"""What gives nothing to those from whom frames are hidden."""
WITHOUT_RIGHTS = "setpriv --bounding-set=-all "
"""What would make swap and move pages shows its plan, then."""
ROOT = pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
EXAMPLES = [
    pytest.param(name, line, id=line, marks=[ROOT] if name == "tables" or "--coldest" in line else [])
    for name in ALL
    for line, _ in load(name).examples
]


@pytest.fixture(scope="module")
def redis() -> Iterator[Victim]:
    with Victim("anon_full") as one:
        one.tell("rename", name="redis-server")
        yield one


@pytest.fixture
def place(tmp_path: Path, redis: Victim) -> Path:
    """Return a directory with what the examples take for granted."""
    (tmp_path / "addresses").write_text(f"{redis['anon_full'].address:#x}\n")
    (tmp_path / ".config/fish/completions").mkdir(parents=True)
    assert mematlas("capture", redis.pid, tmp_path / "saved").returncode == 0
    recording = tmp_path / "redis.mematlas"
    assert mematlas("record", redis.pid, "-d", "0.1s", "-o", recording).returncode == 0
    with Recording(str(recording)) as recorded:
        facts = recorded.facts
    rows = stream.frame_of({"recording": list(facts.items())}), stream.frame_of({"moment": [(1, 1.0, 0.0, 0.0, 0.0)]})
    (tmp_path / "redis.stream").write_bytes(b"".join((stream.MAGIC, *rows)))
    return tmp_path


def frame_of(pid: int, address: int) -> int:
    """Return the frame that a process maps at an address; 0 to those from whom it is hidden."""
    with open(f"/proc/{pid}/pagemap", "rb", 0) as file:
        entry = os.pread(file.fileno(), 8, address // os.sysconf("SC_PAGESIZE") * 8)
    return int.from_bytes(entry, sys.byteorder) & (1 << 55) - 1


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_examples_run(name: str, line: str, place: Path, redis: Victim) -> None:
    start = redis["anon_full"].address
    # Others' processes may have the name too, so ours goes by its PID.
    typed = re.sub(r"\b(1234|redis-server)\b", str(redis.pid), line.replace("name:postgres", "tree:1234"))
    typed = re.sub(r"0x7f28600+(?=\d{3})|0x7f2860000000", lambda match: f"{start:#x}"[: len(match[0])], typed)
    typed = typed.replace("0x1a2b3c", f"{frame_of(redis.pid, start):#x}")
    if name in ACTS and "--dry-run" not in typed:
        typed += " --dry-run"
    if " -i " in typed:
        typed += " -i 50ms -n 2"
    typed = typed.replace(" -d 60s", " -d 1s --force" if name == "record" else " -d 1s").replace("1MiB/min", "1GiB/min")
    typed = typed.replace("--when 'rss > 2GiB'", "--when 'rss > 1KiB' -d 0").replace("-- make", "-- sleep 0.1")
    typed = re.sub(r"@\d+s\b", "@0s", typed)
    typed += " --force" if name == "convert" else ""
    if " saved" in typed:
        (place / "saved").rename(place / "earlier")
    if name == "top":  # it needs a terminal, and somebody who ends it
        typed = f"{{ sleep 2; printf q; }} | script -qefc '\"$PYTHON\" -m {typed}' /dev/null"
    shell = "zsh" if "zsh" in line else "bash"
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    if line == "mematlas demo paging" and os.geteuid() == 0:
        typed = f'{WITHOUT_RIGHTS} "$PYTHON" -m {typed}'
    setup = PREAMBLE + ("autoload -U compinit && compinit -u -D\n" if shell == "zsh" else "")
    run = subprocess.run(
        [shell, "-c", setup + typed],
        env={**os.environ, "PYTHON": sys.executable, "HOME": str(place)},
        cwd=place,
        input="\n" * 40,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    if os.geteuid() and (
        name in BY_FRAMES or (name == "ram" and {"--by", "--verify", "--list", "--runs", "--flags"} & {*typed.split()})
    ):
        assert run.returncode == 4
        assert "needs CAP_" in run.stderr
        return
    assert run.returncode == 0, run.stderr
    writes = name in ("record", "convert")
    is_file = name in ("report", "map") and " -o " in typed and ".svg: " in run.stderr
    assert run.stdout or name == "completion" or is_file or (writes and "next: mematlas report" in run.stderr)
