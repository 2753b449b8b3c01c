"""What shells complete: the syntax of each command, as it declares it; a module for each shell makes its script."""

from __future__ import annotations

from mematlas.cli.arguments import HELP_OPTIONS, Arguments, is_flag, is_option
from mematlas.cli.command import COMMANDS, DIRECTORY, MORE, RECORDING, TARGET, TARGET_KINDS, load
from mematlas.cli.command_help import value_name
from mematlas.cli.help import TOPICS
from mematlas.cli.selection import KIND_TEXTS
from mematlas.frozen import record
from mematlas.model.pages import STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from mematlas.cli.command import Word

LISTS: dict[str, dict[str, str]] = {"KIND,...": KIND_TEXTS, "STATE,...": dict.fromkeys(STATES, "")}
"""The values of options that take several, parted by commas."""
OVERVIEW = "overview"
"""The command without a name: its options stand where others have their name."""


@record
class Values:
    """What a word can be: a target, a directory, or one of some values, each with what it means."""

    kind: str
    """One of `TARGET_KINDS`, `DIRECTORY`, `RECORDING`, or empty: one of the values."""
    texts: dict[str, str]
    is_list: bool = False
    """Whether it can be several of them, parted by commas."""

    def __bool__(self) -> bool:
        return bool(self.kind or self.texts)


@record
class Option:
    """An option of a command."""

    names: tuple[str, ...]
    help: str
    metavar: str | None
    """What its value is called; None when it takes none."""
    values: Values


@record
class Syntax:
    """What may follow a command."""

    name: str
    help: str
    options: list[Option]
    words: list[Values]
    repeats: bool = False
    """Whether the last of the words may come again and again."""


def all_syntax() -> list[Syntax]:
    """Return what may follow each command, and help; and mematlas alone."""
    subjects = {name: text for name, (_, text) in COMMANDS.items()}
    words = [Values("", subjects | dict.fromkeys(TOPICS, "a topic"))]
    help_syntax = Syntax(name="help", help="what a command does, and its options", options=[], words=words)
    return [*map(syntax_of, (*COMMANDS, OVERVIEW)), help_syntax]


def syntax_of(name: str) -> Syntax:
    """Return what a command declares."""
    command = load(name)
    arguments = Arguments()
    command.add_arguments(arguments)
    options = [Option(names=HELP_OPTIONS, help="what it does, and its options", metavar=None, values=NONE)]
    options += [option_of(*declared) for declared in arguments.declared if is_option(declared[0])]
    words = [values_of(word) for word in command.words if word != MORE]
    text = COMMANDS[name][1] if name in COMMANDS else ""
    return Syntax(name=name, help=text, options=options, words=words, repeats=MORE in command.words)


def option_of(names: tuple[str, ...], settings: dict[str, Any]) -> Option:
    """Return an option as it is declared."""
    help_text = str(settings.get("help", ""))
    if is_flag(settings):
        return Option(names=names, help=help_text, metavar=None, values=NONE)
    metavar = value_name(names, settings)
    values = Values("", texts_of(settings.get("choices", ())))
    if metavar == "TARGET":
        values = Values(TARGET, {})
    elif metavar in LISTS:
        values = Values("", LISTS[metavar], is_list=True)
    return Option(names=names, help=help_text, metavar=metavar, values=values)


def values_of(word: Word) -> Values:
    """Return what a word can be."""
    return Values(word, {}) if word in (*TARGET_KINDS, DIRECTORY, RECORDING) else Values("", texts_of(word))


def texts_of(choices: Iterable[str]) -> dict[str, str]:
    """Return choices, each with what it means where that is declared."""
    return choices if isinstance(choices, dict) else dict.fromkeys(choices, "")


NONE = Values("", {})
