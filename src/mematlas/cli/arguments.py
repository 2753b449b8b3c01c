"""Arguments, declared once and parsed twice as fast.

A command declares its arguments by calling ``add_argument`` as argparse has it. Plain command lines, which are
nearly all, are parsed right here. Whatever is not plain (a mistake, an abbreviation, a setting that is not known
here) is left to argparse, which is given the same declarations: it costs 6 ms to import, the price of a whole answer.
"""

from __future__ import annotations

from mematlas.errors import BadInput, did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Collection, Iterable
    from typing import Any, NoReturn

    Settings = dict[str, Any]

KNOWN_SETTINGS = frozenset(("action", "choices", "default", "dest", "help", "metavar", "nargs", "type"))
"""What the plain parser understands; `is_plain` says of which values."""
HELP_OPTIONS = ("-h", "--help")


class Namespace:
    """The arguments as attributes."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Arguments:
    """A list of declared arguments; `add_argument` takes what argparse's does."""

    def __init__(self) -> None:
        self.declared: list[tuple[tuple[str, ...], Settings]] = []
        self.common: set[tuple[str, ...]] = set()
        """The names of those that many commands take: their help is a topic of its own."""
        self.more: set[tuple[str, ...]] = set()
        """The names of those that --help shows and -h does not."""

    def add_argument(self, *names: str, **settings: Any) -> None:
        """Declare an argument."""
        self.declared.append((names, settings))

    def add_common(self, *names: str, **settings: Any) -> None:
        """Declare an argument that many commands take alike."""
        self.common.add(names)
        self.add_argument(*names, **settings)

    def add_more(self, *names: str, **settings: Any) -> None:
        """Declare an argument that few need: -h leaves it out."""
        self.more.add(names)
        self.add_argument(*names, **settings)

    def parse(self, words: list[str]) -> Namespace | None:
        """Return the arguments of a plain command line; None when argparse must look at it."""
        if not all(is_plain(names, settings) for names, settings in self.declared):
            return None
        values: Settings = {}
        options: dict[str, tuple[str, Settings]] = {}
        positionals: list[tuple[str, Settings]] = []
        for names, settings in self.declared:
            name = attribute_of(names, settings)
            values.setdefault(name, settings.get("default", False if is_flag(settings) else None))
            if is_option(names):
                options |= dict.fromkeys(names, (name, settings))
            else:
                positionals.append((name, settings))
        rest = take_options(words, options, values)
        if rest is None or not take_words(rest, positionals, values):
            return None
        return Namespace(**values)

    def parse_slowly(self, words: list[str], others: Iterable[str] = HELP_OPTIONS) -> Namespace:
        """Return the arguments as argparse sees them.

        ``others`` are options that may have been meant as well.

        Raises:
            BadInput: there is a mistake.
        """
        parser = self.parser()
        # It takes the value of --name=-- for none, and asks neither type nor choices about that.
        own = words[: words.index("--")] if "--" in words else words
        if empty := [word for word in own if word.startswith("-") and word.endswith("=--")]:
            parser.error(f"argument {empty[0].partition('=')[0]}: expected one argument")
        # Intermixed: words may stand before and after options, as `parse` has it.
        values, unknown = parser.parse_known_intermixed_args(words)
        if option := next((word for word in unknown if is_option((word,))), None):
            name = option.partition("=")[0]
            raise BadInput(f"unknown option {option!r}{did_you_mean(name, self.names(others))}")
        if unknown:
            raise BadInput(f"unexpected argument {unknown[0]!r}")
        return Namespace(**vars(values))

    def names(self, others: Iterable[str] = ()) -> list[str]:
        """Return the names of all options, and others."""
        own = [name for names, _ in self.declared if is_option(names) for name in names]
        return [*own, *others]

    def parser(self) -> argparse.ArgumentParser:
        """Return the argparse parser of the same declarations."""
        import argparse
        from functools import partial

        class Parser(argparse.ArgumentParser):
            def error(self, message: str) -> NoReturn:
                raise BadInput(in_own_words(message))

        parser = Parser(add_help=False)
        for names, settings in self.declared:
            if "choices" in settings and "type" not in settings:
                check = one_of(names[-1] if is_option(names) else "", settings["choices"])
                settings = settings | {"type": check}
                del settings["choices"]
            elif "type" in settings:
                settings = settings | {"type": partial(convert, names[0], to=settings["type"])}
            parser.add_argument(*names, **settings)
        return parser


ONE_EXPECTED, REQUIRED = ": expected one argument", "the following arguments are required: "
"""What argparse says."""


def in_own_words(message: str) -> str:
    """Return a message of argparse as ours are.

    >>> in_own_words(f"argument -p/--pid{ONE_EXPECTED}"), in_own_words(f"{REQUIRED}SHELL"), in_own_words("bad X")
    ('-p/--pid needs a value', 'SHELL is missing', 'bad X')
    """
    if message.endswith(ONE_EXPECTED):
        return message.removeprefix("argument ").removesuffix(ONE_EXPECTED) + " needs a value"
    if message.startswith(REQUIRED):
        return message.removeprefix(REQUIRED) + " is missing"
    return message


def is_option(names: tuple[str, ...]) -> bool:
    """Whether these are the names of an option rather than of a word."""
    return names[0].startswith("-")


def is_flag(settings: Settings) -> bool:
    """Whether an option takes no value."""
    return settings.get("action") == "store_true"


def is_plain(names: tuple[str, ...], settings: Settings) -> bool:
    """Whether the plain parser does what argparse would with an argument of these settings."""
    if not settings.keys() <= KNOWN_SETTINGS or settings.get("action", "store_true") != "store_true":
        return False
    if is_option(names):
        # A default that is a text, argparse converts as well.
        is_converted = "type" in settings and isinstance(settings.get("default"), str)
        return "nargs" not in settings and not is_converted
    more = settings.keys() - {"help", "metavar"}
    return more <= {"choices"} or (more == {"nargs"} and settings["nargs"] == "*")


def attribute_of(names: tuple[str, ...], settings: Settings) -> str:
    """Return the attribute that an argument becomes: the first long name's."""
    long = next((name for name in names if name.startswith("--")), names[0])
    return settings.get("dest") or long.lstrip("-").replace("-", "_")


def take_options(words: list[str], options: dict[str, tuple[str, Settings]], values: Settings) -> list[str] | None:
    """Add the options of a line to the values; return its other words, or None where argparse must look."""
    rest: list[str] = []
    queue = iter(words)
    for word in queue:
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        option, equals, value = word.partition("=")
        if option not in options:
            return None
        name, settings = options[option]
        if is_flag(settings):
            if equals:
                return None
            values[name] = True
            continue
        if not equals:
            value = next(queue, "-")
        if value == "--" or (not equals and value.startswith("-") and not value[1:2].isdigit()):
            return None
        try:
            converted = convert(option, value, settings.get("type"))
        except (ValueError, TypeError):
            return None
        if "choices" in settings and converted not in settings["choices"]:
            return None
        values[name] = converted
    return rest


def take_words(words: list[str], positionals: list[tuple[str, Settings]], values: Settings) -> bool:
    """Add the words that are no options to the values; return whether that is all there is to it."""
    if not positionals:
        return not words
    name, settings = positionals[0]
    if len(positionals) > 1:
        return False
    if settings.get("nargs") == "*":
        values[name] = words
        return True
    if len(words) != 1 or words[0] not in settings.get("choices", words):
        return False
    values[name] = words[0]
    return True


def convert(option: str, value: str, to: Callable[[str], Any] | None) -> Any:
    """Return the value of an option as the declared type makes it.

    Raises:
        BadInput: the type does not take it; with the name of the option.
    """
    try:
        return to(value) if to else value
    except BadInput as error:
        raise BadInput(f"{option}: {error}") from None


def one_of(option: str, choices: Collection[str]) -> Callable[[str], str]:
    """Return the type of an argument that takes one of these."""

    def check(text: str) -> str:
        if text not in choices:
            *most, last = choices
            what = f"{option} {text!r}" if option else f"{text!r}"
            raise BadInput(f"bad {what}: {', '.join(most)} or {last}{did_you_mean(text, choices)}")
        return text

    return check
