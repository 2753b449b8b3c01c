"""Make the manual page, mematlas(1), from what the commands declare: roff for groff and mandoc.

    .venv/bin/python scripts/man_page.py > mematlas.1

A wheel has it, made when it is built (scripts/hatch_build.py).
"""

from __future__ import annotations

import sys

from mematlas.cli.arguments import Arguments
from mematlas.cli.command import COMMANDS, Command, load
from mematlas.cli.command_help import TARGETS_TOPIC, common_options, is_listed, spelling_of
from mematlas.cli.help import EXIT_CODES
from mematlas.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.cli.command_help import Declared

HEAD = f"""\
.TH MEMATLAS 1 "" "mematlas {__version__}" "User Commands"
.SH NAME
mematlas \\- observe, measure and influence the virtual memory of running processes
.SH SYNOPSIS
.nf
.B mematlas
.BI "mematlas " "COMMAND TARGET " [ options ]
.BI "mematlas " "COMMAND " "[" options "] \\-\\- " "PROGRAM ..."
.BI "mematlas help " COMMAND
.fi
.SH DESCRIPTION
Shows which pages of a process are in RAM, in swap, shared or never touched, and what that costs: from a line per
process down to the raw page\\-table entry, on a stock kernel. Without a command it shows this machine, and who uses the
most of it.
.PP
Data goes to standard output, everything else to standard error. A value that could not be read is \\(lqhidden\\(rq or
\\(lq\\-\\(rq, in JSON null, never 0.
"""

TAIL = """\
.SH SEE ALSO
.BR pmap (1),
.BR vmstat (8),
.BR madvise (2),
.BR process_madvise (2),
.BR proc (5)
.PP
The guide is in share/doc/mematlas, where mematlas was installed as a package.
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, ".SH COMMANDS\n", *map(section, COMMANDS)]
    parts += [".SH COMMON OPTIONS\n", *map(option, common_options())]
    parts += [".SH TARGETS\n", text(TARGETS_TOPIC)]
    parts += [".SH EXIT STATUS\n", text(EXIT_CODES.removeprefix("Exit codes: "))]
    return "".join([*parts, TAIL])


def section(name: str) -> str:
    """Return the section of one command."""
    command = load(name)
    arguments = Arguments()
    command.add_arguments(arguments)
    special = [declared for declared in arguments.declared if declared[0] not in arguments.common]
    own = [declared for declared in special if is_listed(declared, command)]
    shared = [names[0] for names, _ in arguments.declared if names in arguments.common]
    head = f".SS {name}\n{escape(COMMANDS[name][1][:1].upper() + COMMANDS[name][1][1:])}.\n"
    usage = f".PP\n.B mematlas {name}\n{escape(command.usage)}\n.PP\n"
    more = f".PP\nCommon options: {escape(', '.join(shared))}\n" if shared else ""
    about = text(command.about.strip())
    return "".join([head, usage, about, examples(command), *map(option, own), more])


def examples(command: Command) -> str:
    """Return the lines to type."""
    lines = []
    for line, comment in command.examples:
        lines.append(f"{line}    # {comment}" if comment else line)
    return literal(lines)


def option(declared: Declared) -> str:
    """Return an argument with its help."""
    return f".TP\n.B {escape(spelling_of(declared))}\n{escape(str(declared[1].get('help', '')))}\n"


def text(paragraphs: str) -> str:
    """Return paragraphs; those that have columns stay as they are."""
    parts = []
    for paragraph in paragraphs.split("\n\n"):
        lines = paragraph.split("\n")
        if any("  " in line.strip() for line in lines):
            parts.append(literal(lines))
        else:
            parts.append("\n".join(map(escape, lines)) + "\n.PP\n")
    return "".join(parts)


def literal(lines: Iterable[str]) -> str:
    """Return lines that are not filled."""
    return "\n".join([".RS 4", ".nf", *map(escape, lines), ".fi", ".RE", ".PP", ""])


def escape(line: str) -> str:
    """Return a line of text that roff takes for nothing else.

    >>> escape(".5 of C:\\\\ in --it's")
    "\\\\&.5 of C:\\\\e in \\\\-\\\\-it's"
    """
    escaped = line.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.stdout.write(page())
