"""Arguments, declared once and parsed twice as fast.

A command declares its arguments by calling ``add_argument`` as argparse has it. Plain command lines, which are
nearly all, are parsed right here. Whatever is not plain (a mistake, ``--help``, an abbreviation) is left to
argparse, which is given the same declarations: it costs 6 ms to import, the price of a whole answer.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any, NoReturn


class Namespace:
    """The arguments as attributes."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Arguments:
    """A list of declared arguments; `add_argument` takes what argparse's does."""

    def __init__(self) -> None:
        self.declared: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    def add_argument(self, *names: str, **settings: Any) -> None:
        """Declare an argument."""
        self.declared.append((names, settings))

    def parse(self, words: list[str]) -> Namespace | None:
        """Return the arguments of a plain command line; None when argparse must look at it."""
        values: dict[str, Any] = {}
        options: dict[str, tuple[str, dict[str, Any]]] = {}
        positional: tuple[str, dict[str, Any]] | None = None
        for names, settings in self.declared:
            name = settings.get("dest") or names[-1].lstrip("-").replace("-", "_")
            values[name] = settings.get("default", False if settings.get("action") == "store_true" else None)
            if names[0].startswith("-"):
                options |= dict.fromkeys(names, (name, settings))
            elif positional is None and settings.get("nargs") in (None, "*"):
                positional = (name, settings)
            else:
                return None
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
            if settings.get("action") == "store_true":
                if equals:
                    return None
                values[name] = True
                continue
            if not equals:
                value = next(queue, "-")
            if value == "--" or (not equals and value.startswith("-")):
                return None
            try:
                converted = convert(value, settings.get("type"))
            except (ValueError, TypeError):
                return None
            if "choices" in settings and converted not in settings["choices"]:
                return None
            values[name] = converted
        if positional and positional[1].get("nargs") == "*":
            values[positional[0]] = rest
        elif positional and len(rest) == 1 and rest[0] in positional[1].get("choices", rest):
            values[positional[0]] = rest[0]
        elif positional or rest:
            return None
        return Namespace(**values)

    def parse_slowly(self, words: list[str], prog: str, usage: str, text: str) -> Namespace:
        """Return the arguments as argparse sees them; prints help or a mistake, and exits, as it does."""
        parser = self.parser(prog, usage, text)
        # It takes the value of --name=-- for none, and asks neither type nor choices about that.
        own = words[: words.index("--")] if "--" in words else words
        if empty := [word for word in own if word.startswith("-") and word.endswith("=--")]:
            parser.error(f"argument {empty[0].partition('=')[0]}: expected one argument")
        # Intermixed: words may stand before and after options, as `parse` has it.
        return Namespace(**vars(parser.parse_intermixed_args(words)))

    def parser(self, prog: str, usage: str, text: str) -> argparse.ArgumentParser:
        """Return the argparse parser of the same declarations."""
        import argparse

        from mematlas.views.format import fold_message, fold_text, format_message
        from mematlas.views.terminal import screen_width

        class Parser(argparse.ArgumentParser):
            def error(self, message: str) -> NoReturn:
                # It quotes words, which a shell may have made of the names of files.
                width = screen_width(sys.stderr)
                super().error("\n".join(fold_message(format_message(message), width and width - len(self.prog) - 9)))

        parser = Parser(
            prog=prog,
            usage=f"{prog} {usage}",
            description=fold_text(text, screen_width(sys.stdout)),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for names, settings in self.declared:
            parser.add_argument(*names, **settings)
        return parser


def convert(value: str, to: Callable[[str], Any] | None) -> Any:
    """Return the value as the declared type makes it."""
    return to(value) if to else value
