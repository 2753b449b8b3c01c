"""Make docs/cli.md, the reference of the command line, from what the commands declare.

    .venv/bin/python scripts/make_docs.py            write it
    .venv/bin/python scripts/make_docs.py --check    exit 1 when it is stale

The layout is ours, not that of argparse, which differs from one Python version to the next.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from mematlas import errors
from mematlas.cli.arguments import Arguments, is_flag, is_option
from mematlas.cli.command import COMMANDS, Command, load
from mematlas.cli.command_help import TARGETS_TOPIC, common_options, is_listed, value_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.command_help import Declared

OUTPUT = Path(__file__).parents[1] / "docs" / "cli.md"

HEAD = """\
<!-- Made by scripts/make_docs.py from the commands themselves: change those, then run `make docs`. -->

# Command reference

What every command takes. The [guide](guide.md) shows what they are for, and [concepts](concepts.md) what the words
mean.

```text
mematlas COMMAND TARGET [options]
mematlas COMMAND [options] -- PROGRAM ...
mematlas --apart COMMAND ...
mematlas help COMMAND
```

`mematlas --help` lists the commands, `mematlas help COMMAND` explains one, `mematlas --version` names the version. Data
goes to standard output, everything else to standard error. With `--apart` only a small part keeps the rights of root:
[rights apart](reliability.md#rights-apart).
"""

EXIT_CODES = """\
## Exit codes

| code | meaning |
|---|---|
"""

EXIT_TAIL = """
With `-- PROGRAM ...` the exit code is that of the program when that is not 0 and the looking itself went well; 128 and
the number of the signal when one ended it. A reader that has enough (`| head`) ends
the command quietly, with 0.
"""


def main(words: list[str]) -> int:
    """Write the page, or check that it is as it would be written."""
    text = page()
    if words == ["--check"]:
        if OUTPUT.exists() and OUTPUT.read_text(encoding="utf-8") == text:
            return 0
        print(f"{OUTPUT.name} is stale: run `make docs`", file=sys.stderr)
        return 1
    if words:
        print(f"{Path(__file__).name} takes --check or nothing", file=sys.stderr)
        return 2
    OUTPUT.write_text(text, encoding="utf-8")
    return 0


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, targets(), commands_table(), common(), overview()]
    parts += [section(name) for name in COMMANDS]
    rows = [f"| {code} | {text} |\n" for code, text in exit_codes()]
    parts += [EXIT_CODES + "".join(rows) + EXIT_TAIL]
    return "\n".join(parts)


def common() -> str:
    """Return the section about the options that many commands take."""
    return f"## Common options\n\n{table(common_options())}"


def targets() -> str:
    """Return what a target can be, in the words of the help."""
    return f"## Targets\n\n```text\n{TARGETS_TOPIC}\n```\n"


def commands_table() -> str:
    """Return the list of all commands, by group."""
    lines = ["## Commands", "", "| | command | shows or does |", "|---|---|---|"]
    last = ""
    for name, (group, text) in COMMANDS.items():
        lines.append(f"| {group if group != last else ''} | [`{name}`](#{name}) | {text} |")
        last = group
    return "\n".join(lines) + "\n"


def overview() -> str:
    """Return the section about the program called without a command."""
    command = load("overview")
    parts = (usage("", command), prose(command), examples(command), options(command))
    return "\n".join(["## mematlas alone\n", *parts])


def section(name: str) -> str:
    """Return the section about one command."""
    command = load(name)
    what = f"## {name}\n\n{COMMANDS[name][1]}\n"
    parts = (usage(name, command), prose(command), examples(command), options(command))
    return "\n".join([what, *parts])


def usage(name: str, command: Command) -> str:
    """Return the usage line."""
    return f"```text\n{' '.join(filter(None, ('mematlas', name, command.usage)))}\n```\n"


def prose(command: Command) -> str:
    """Return the text of a command's help; lines that are aligned with blanks stay as they are."""
    parts = []
    for paragraph in inspect.cleandoc(command.about).split("\n\n"):
        if "  " in paragraph.strip():
            parts.append(f"```text\n{paragraph}\n```\n")
        else:
            parts.append(f"{paragraph}\n")
    return "\n".join(parts)


def examples(command: Command) -> str:
    """Return the lines to type."""
    longest = max(len(line) for line, _ in command.examples)
    lines = ["```console"]
    for line, text in command.examples:
        lines.append(f"$ {line:<{longest}}  # {text}" if text else f"$ {line}")
    return "\n".join([*lines, "```\n"])


def options(command: Command) -> str:
    """Return the arguments that a command declares, as a table; those that others take too, by name."""
    arguments = Arguments()
    command.add_arguments(arguments)
    special = [declared for declared in arguments.declared if declared[0] not in arguments.common]
    own = [declared for declared in special if is_listed(declared, command)]
    shared = ", ".join(f"`{names[0]}`" for names, _ in arguments.declared if names in arguments.common)
    text = table(own) if own else ""
    if shared:
        text += ("\n" if text else "") + f"[Common options](#common-options): {shared}.\n"
    return text


def table(declared: list[Declared]) -> str:
    """Return arguments with their help."""
    lines = ["| argument | meaning |", "|---|---|"]
    for names, settings in declared:
        lines.append(f"| {spelling(names, settings)} | {meaning(settings)} |")
    return "\n".join(lines) + "\n"


def spelling(names: tuple[str, ...], settings: dict[str, Any]) -> str:
    """Return how an argument is written: ``-p TARGET``, ``--pid TARGET``."""
    if not is_option(names):
        return f"`{settings.get('metavar', names[0].upper())}`"
    value = "" if is_flag(settings) else f" {value_name(names, settings)}"
    return ", ".join(f"`{name}{value}`" for name in names)


def meaning(settings: dict[str, Any]) -> str:
    """Return what an argument is for, with its choices where the help does not name them all."""
    text = str(settings.get("help", "")).replace("%%", "%").replace("|", "\\|").replace("<", "&lt;")
    choices = [str(choice) for choice in settings.get("choices", ())]
    if all(choice in text for choice in choices):
        return text
    return f"{text}; one of {', '.join(f'`{choice}`' for choice in choices)}"


def exit_codes() -> list[tuple[int, str]]:
    """Return the exit codes with their meanings, as the errors that become them say it."""
    meanings: dict[int, list[str]] = {}
    kinds: list[type[errors.Error]] = [errors.Error, *errors.Error.__subclasses__()]
    for kind in kinds:
        text = (kind.__doc__ or "").split("\n")[0].partition(". ")[0].rstrip(".").replace("``", "`")
        meanings.setdefault(kind.exit_code, []).append(text[:1].lower() + text[1:])
    meanings[0] = ["done"]
    meanings[1] = ["any other error"]
    meanings[130] = ["interrupted with Ctrl-C"]
    return sorted((code, "; ".join(texts)) for code, texts in meanings.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
