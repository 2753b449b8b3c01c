"""Help of one command, and of what several share.

The layout is ours, not that of argparse, which differs from one Python version to the next: what a command is for
comes first, then lines to type, then its own options; those that many commands take are named, and have a topic.
--help has all of it. Where that is longer than a screen, -h has the first paragraph and the options that most need.
"""

from __future__ import annotations

import re

from mematlas.cli.arguments import Arguments, is_flag, is_option
from mematlas.cli.command import COMMANDS, SHORT_TARGETS, TARGETS, load
from mematlas.views.format import fold_message, fold_text, fold_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.cli.command import Command

    Declared = tuple[tuple[str, ...], dict[str, Any]]

PIPE_WIDTH = 100
"""Columns where there is no screen."""
SCREEN_LINES = 23
"""Of a screen, with the prompt below."""
LEAST_TEXT = 24
"""Columns that the text of an option has at the least."""
INDENT = 24
"""Columns before the text of an option; a longer name has a line of its own."""

TARGETS_TOPIC = f"""\
{TARGETS}

  1234               a PID; pid:1234 if a capture here has that name
  self               mematlas itself
  redis-server       a command's exact name, as ps -o comm shows it
  cmdline:app.jar    a regular expression over whole command lines
  '~app.jar'         the same, quoted: shells give ~ a meaning of their own
  ./saved            a directory that mematlas capture made
  a.mematlas@30s     a moment of what mematlas record made; a.mematlas@30s:1234 one process of it
  -- COMMAND ...     a program to start, as the invoking user; --after waits

Groups, mematlas itself left out. usage and share take each as one, ps lists its processes; what acts
shows its plan for each process and wants --yes; other commands take one process, and list those that
there are.

  name:postgres      all processes of exactly that name
  user:www-data      all of a user, by name or UID
  tree:1234          a process, by PID or name, and all below it
  cgroup:/a/b        a cgroup and those below it
  container:9ec39b   a container: Docker, containerd, CRI-O, Podman, LXC ...
  pod:2c48913c       a pod of Kubernetes or Podman
  unit:nginx         a unit of systemd: a service, unless the name says else"""


MEASURES_TOPIC = """\
What mematlas check takes for an assertion: a measure, an operator, a limit.

  uss < 200MiB             B, KiB, MiB, GiB, TiB; K, M, G, T for short; else bytes
  nr_vmas <= 1000          a number of things has no unit
  growth(rss) < 1MiB/min   /s, /min, /h or /d; with -d, of five looks or more
  < <= > >= == !=          of growth < <= > >=

Measures, of a process or, as far as they add up, of a group:
"""


def command_text(name: str, width: int, short: bool = False) -> str:
    """Return the help of one command."""
    command = load(name)
    arguments = Arguments()
    command.add_arguments(arguments)
    program = program_of(name)
    width = width or PIPE_WIDTH
    head = f"{program}: {COMMANDS[name][1]}" if name in COMMANDS else program
    first: list[str] = []
    more: list[str] = []
    for declared in arguments.declared:
        if declared[0] not in arguments.common and is_listed(declared, command):
            lines = more if declared[0] in arguments.more else first
            lines += option_lines(declared, width, with_values=not short)
    begin = [fold_text(head, width), *usage_lines(f"{program} {command.usage}", width)]
    about = about_lines(command.about, width)
    middle = [["Examples:", *example_lines(command, width)], ["Options:", *first] if first else []]
    end = shared_lines(command, arguments, width)
    text = joined([begin, about, *middle, ["More options:", *more] if more else [], end])
    if short and text.count("\n") > SCREEN_LINES:
        about = about[: about.index("")] if "" in about else about
        text = joined([begin, about, *middle, [*end, f"All options: {program} --help"]])
    return text


def joined(parts: list[list[str]]) -> str:
    """Return parts of a help, with an empty line between them."""
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def usage_lines(text: str, width: int) -> list[str]:
    """Return how a command is typed, folded behind the word before it.

    >>> usage_lines("mematlas maps [options] TARGET [AREA]", 40)
    ['usage: mematlas maps [options] TARGET', '       [AREA]']
    """
    label = "usage: "
    first, *others = fold_words(text, width - len(label))
    return [label + first, *(" " * len(label) + line for line in others)]


def about_lines(text: str, width: int) -> list[str]:
    """Return what a command or a topic is about, folded; of lines that have columns the last one is."""
    lines: list[str] = []
    for line in fold_text(text.strip(), width).split("\n"):
        lines += fold_message(line, width) if "  " in line else [line]
    return lines


def program_of(name: str) -> str:
    """Return what a command is called by: the one without a name is mematlas alone."""
    return f"mematlas {name}" if name in COMMANDS else "mematlas"


def is_listed(declared: Declared, command: Command) -> bool:
    """Whether an argument has a line of its own: a target has a topic."""
    return is_option(declared[0]) or not command.takes_target


def example_lines(command: Command, width: int) -> list[str]:
    """Return the lines to type, each with what it shows where that fits."""
    longest = max((len(line) for line, _ in command.examples), default=0)
    lines = []
    for line, text in command.examples:
        whole = f"  {line:<{longest}}  # {text}" if text else f"  {line}"
        lines.append(whole if len(whole) <= width else f"  {line}")
    return lines


def option_lines(declared: Declared, width: int, with_values: bool = False) -> list[str]:
    """Return an argument with its help, folded; ``with_values`` with those that it takes and its help leaves out."""
    names = "  " + spelling_of(declared)
    about = str(declared[1].get("help", ""))
    values = list(declared[1].get("choices", ()))
    if with_values and not {*values} <= {*re.findall(r"\w+", about)}:
        about += f": {', '.join(values)}"
    text = fold_words(about, max(width - INDENT, LEAST_TEXT))
    head = [f"{names:<{INDENT - 1}} {text.pop(0)}"] if len(names) < INDENT else [names]
    return head + [" " * INDENT + line for line in text]


def spelling_of(declared: Declared) -> str:
    """Return how an argument is written: ``-p, --pid TARGET``."""
    names, settings = declared
    if not is_option(names):
        return str(settings.get("metavar", names[0].upper()))
    return ", ".join(names) + ("" if is_flag(settings) else f" {value_name(names, settings)}")


def value_name(names: tuple[str, ...], settings: dict[str, Any]) -> str:
    """Return what the value of an option is called."""
    return str(settings.get("metavar") or names[-1].lstrip("-").upper())


def shared_lines(command: Command, arguments: Arguments, width: int) -> list[str]:
    """Return what a command shares with others, and the topics about it: its target, and the names of options."""
    texts = [SHORT_TARGETS] if command.takes_target else []
    names = [names[0] for names, _ in arguments.declared if names in arguments.common]
    texts += [f"Common options (mematlas help options): {' '.join(names)}"] if names else []
    return [line for text in texts for line in fold_words(text, width)]


# Topics


def options_topic(width: int) -> str:
    """Return the options that many commands take."""
    lines: list[str] = []
    for declared in common_options():
        lines += option_lines(declared, width or PIPE_WIDTH)
    return "\n".join(["Options that many commands take; mematlas help COMMAND has its own:", "", *lines]) + "\n"


def common_options() -> list[Declared]:
    """Return the declarations that several commands share, each once."""
    common: dict[tuple[str, ...], Declared] = {}
    for name in COMMANDS:
        arguments = Arguments()
        load(name).add_arguments(arguments)
        for names, settings in arguments.declared:
            if names in arguments.common:
                common.setdefault(names, (names, settings))
    return list(common.values())


def targets_topic(width: int) -> str:
    """Return what a target can be."""
    return "\n".join(about_lines(TARGETS_TOPIC, width)) + "\n"


def measures_topic(width: int) -> str:
    """Return what can be asserted."""
    from mematlas.analysis.growth import LABELS
    from mematlas.views.check import MEANINGS

    lines = about_lines(MEASURES_TOPIC, width)
    texts = [f"  {name:<14} {meaning}" for name, meaning in MEANINGS.items()]
    texts += ["", "What growth is called:", "", *(f"  {name:<14} {meaning}" for name, meaning in LABELS.items())]
    for text in texts:
        lines += fold_message(text, width)
    return "\n".join(lines) + "\n"


TOPIC_TEXTS = {"measures": measures_topic, "options": options_topic, "targets": targets_topic}
