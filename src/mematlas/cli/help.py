"""Help of mematlas as a whole: all commands, by group; with -h on a screen. It loads nothing that it does not show."""

from __future__ import annotations

from mematlas.cli.command import COMMANDS, SHORT_TARGETS, TARGETS
from mematlas.version import __version__
from mematlas.views.format import fold_text, fold_words

TOPICS = ("measures", "options", "targets")
"""What has help besides commands; `mematlas.cli.command_help` has the texts."""
SHORT_WIDTH = 78
"""Columns from which on two ways to type it stand in one line of the short help."""
NAMES_ALONE = ("Time", "Learn", "Meta")
"""The groups of which the short help has no more than the names."""
EXIT_CODES = """\
Exit codes: 0 ok, 1 error, 2 usage, 3 target not found or ambiguous, 4 permission,
5 not supported by this kernel, 6 target ended, 10 a check did not hold."""


def overview_text(width: int) -> str:
    """Return the help of mematlas as a whole, for a screen of this width; 0 for any."""
    head = f"mematlas {__version__}: observe, measure and influence the virtual memory of running processes"
    lines = [
        fold_text(head, width),
        "",
        "usage: mematlas COMMAND TARGET [options]    mematlas help COMMAND",
        "       mematlas                             this machine, who uses the most",
        "       mematlas --apart COMMAND ...         as root: a small part keeps rights",
    ]
    group = ""
    for name, (its_group, text) in COMMANDS.items():
        if its_group != group:
            group = its_group
            lines += ["", group]
        first, *others = fold_words(text, width - 14) if width else [text]
        lines += [f"  {name:<11} {first}", *(" " * 14 + line for line in others)]
    lines += ["", fold_text(f"{TARGETS}\n\n{EXIT_CODES}", width), f"More: mematlas help {' | '.join(TOPICS)}"]
    return "\n".join(lines) + "\n"


def short_overview_text(width: int) -> str:
    """Return what of it most need: where the screen is of 80 columns, it fits into 24 lines with the prompt."""
    usage = ("usage: mematlas COMMAND TARGET [options]", "mematlas alone: who uses the most")
    lines = [
        fold_text(f"mematlas {__version__}: observe, measure and influence the virtual memory of processes", width),
        *(usage if 0 < width < SHORT_WIDTH else ["    ".join(usage)]),
    ]
    group = ""
    for name, (its_group, text) in COMMANDS.items():
        if its_group in NAMES_ALONE:
            continue
        first, *others = fold_words(text, width - 17) if width else [text]
        lines += [f"{its_group * (its_group != group):<5} {name:<10} {first}", *(" " * 17 + line for line in others)]
        group = its_group
    for group in NAMES_ALONE:
        names = ", ".join(name for name, (its_group, _) in COMMANDS.items() if its_group == group)
        first, *others = fold_words(names, width - 6) if width else [names]
        lines += [f"{group:<5} {first}", *(" " * 6 + line for line in others)]
    lines += [
        fold_text(SHORT_TARGETS, width),
        fold_text(f"More: mematlas --help | mematlas help COMMAND | {' | '.join(TOPICS)}", width),
    ]
    return "\n".join(lines) + "\n"
