"""What a lesson asks: a number, a range or a choice; how a prediction is understood, and when it holds.

A number may be given in pages or as a size, and may be a formula over what the lesson has said: an answers file
written yesterday then holds for the addresses of today.

>>> Number("pages").parse("2 MiB", {"page_size": 4096})
512
>>> Number("").parse("address % page_size", {"page_size": 4096, "address": 0x7f0123})
291
"""

from __future__ import annotations

import ast
import operator
import re

from mematlas.errors import BadInput
from mematlas.frozen import record
from mematlas.views.format import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Facts = Mapping[str, Any]
    Prediction = int | tuple[int, int]
    Reality = int | str

UNITS = {"": 0, "b": 0, "byte": 0, "bytes": 0}
UNITS |= dict.fromkeys(("k", "kb", "ki", "kib"), 10)
UNITS |= dict.fromkeys(("m", "mb", "mi", "mib"), 20)
UNITS |= dict.fromkeys(("g", "gb", "gi", "gib"), 30)
AMOUNT = re.compile(r"(.*?(?:\d|\)|\s))\s*(pages?|bytes?|[kmg]i?b?|b)", re.IGNORECASE | re.ASCII)
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
MAX_FORMULA = 200
"""Characters; with `MAX_NUMBER` it bounds what a formula can cost."""
MAX_NUMBER = 1 << 128
RANGE = re.compile(r"(.+?)\s*(?:\.\.|\bto\b|(?<=[\w\s])[-–](?=[\d\s]))\s*(.+)")


@record
class Question:
    """What is to be predicted."""

    key: str
    """Its name in an answers file."""
    text: str
    kind: Number | Interval | OneOf


@record
class Number:
    """A question with one right number."""

    unit: str
    """``pages``, ``bytes``, or empty for a plain number."""
    slack: int = 0
    """How far off a prediction may be: what else the program does meanwhile."""
    hexadecimal: bool = False

    @property
    def form(self) -> str:
        """How to answer."""
        if self.unit == "pages":
            return "a number of pages, or a size such as 64 KiB"
        if self.unit == "bytes":
            return "a size such as 64 KiB"
        return "a number, or a formula" if self.hexadecimal else "a number"

    def parse(self, text: str, facts: Facts) -> int:
        """Return the prediction in this question's unit. Raises `BadInput` for what is none."""
        try:
            return parse_amount(text, self.unit, facts)
        except BadInput:
            if re.fullmatch(r"\s*\d.*\d.*", text) and RANGE.fullmatch(text.strip()):
                raise BadInput(f"{text!r} is a range: give one number") from None
            raise

    def holds(self, prediction: Prediction, reality: Reality) -> bool:
        """Whether a prediction is right."""
        return isinstance(prediction, int) and abs(prediction - int(reality)) <= self.slack

    def short(self, value: Any, facts: Facts) -> str:
        """Return a prediction, or the reality, for a table."""
        return self.show(value, facts)

    def show(self, value: Any, facts: Facts) -> str:
        """Return a prediction, or the reality, for people."""
        return show_amount(value, self.unit, facts, self.hexadecimal)


PAGES = Number("pages")


@record
class Interval:
    """A question whose answer varies from machine to machine: right is a range that holds it and is not too wide."""

    unit: str
    factor: int
    """How many times the low end the high end may be. A number alone stands for the range around it."""

    @property
    def form(self) -> str:
        """How to answer."""
        example = "3-9 MiB" if self.unit == "bytes" else "3-9"
        return f"a range such as {example}, its high end at most {self.factor} times the low one"

    def parse(self, text: str, facts: Facts) -> tuple[int, int]:
        """Return the prediction in this question's unit. Raises `BadInput` for what is none."""
        match = RANGE.fullmatch(text.strip())
        if not match:
            middle = parse_amount(text, self.unit, facts)
            half = self.factor**0.5
            return int(middle / half), int(middle * half)
        low, high = match.groups()
        if unit := AMOUNT.fullmatch(high):  # of "3-9 MiB" both are MiB
            low = low if AMOUNT.fullmatch(low) else f"{low} {unit[2]}"
        ends = parse_amount(low, self.unit, facts), parse_amount(high, self.unit, facts)
        if ends[0] > ends[1]:
            raise BadInput(f"{text!r}: the low end comes first")
        if ends[1] > ends[0] * self.factor:
            raise BadInput(f"{text!r} is too wide: {self.form}")
        return ends

    def holds(self, prediction: Prediction, reality: Reality) -> bool:
        """Whether a prediction is right."""
        return not isinstance(prediction, int) and prediction[0] <= int(reality) <= prediction[1]

    def short(self, value: Any, facts: Facts) -> str:
        """Return a prediction, or the reality, for a table."""
        return self.show(value, facts)

    def show(self, value: Any, facts: Facts) -> str:
        """Return a prediction, or the reality, for people."""
        if isinstance(value, int):
            return show_amount(value, self.unit, facts)
        low, high = (show_amount(end, self.unit, facts) for end in value)
        return f"{low} to {high}"


@record
class OneOf:
    """A question with one right answer out of a few; the reality is its text."""

    options: tuple[str, ...]

    @property
    def form(self) -> str:
        """How to answer."""
        return f"a letter, a to {self.letter(len(self.options) - 1)}"

    def short(self, value: Any, facts: Facts) -> str:
        """Return the letter of a prediction, or of the reality."""
        return self.show(value, facts)[0]

    def letter(self, index: int) -> str:
        """Return the letter of an option."""
        return "abcdefgh"[index]

    def parse(self, text: str, facts: Facts) -> int:
        """Return the index of the option meant, by its letter or its words. Raises `BadInput` for what is none."""
        words = text.strip().lower().rstrip(").")
        for index, option in enumerate(self.options):
            if words in (self.letter(index), option.lower().rstrip(".")):
                return index
        raise BadInput(f"{text!r} is not one of the choices: {self.form}")

    def holds(self, prediction: Prediction, reality: Reality) -> bool:
        """Whether a prediction is right."""
        return isinstance(prediction, int) and self.options[prediction] == reality

    def show(self, value: Any, facts: Facts) -> str:
        """Return a prediction, or the reality, for people."""
        index = self.options.index(value) if isinstance(value, str) else value
        return f"{self.letter(index)}) {self.options[index]}"


def parse_amount(text: str, unit: str, facts: Facts) -> int:
    """Return an amount in a unit: a number, a size, a number of pages, or a formula over the facts."""
    words = " ".join(text.split())  # a long run of blanks would take the expression below very long
    given = ""
    amount = None if is_integer(words) else AMOUNT.fullmatch(words)
    if amount:
        words, given = amount[1], amount[2].lower()
    value = calculate(words.replace(",", ""), facts)
    page_size = int(facts.get("page_size", 0)) or 1
    if given.startswith("page"):
        value *= page_size if unit == "bytes" else 1
        known = unit in ("pages", "bytes")
    else:
        value *= 1 << UNITS[given]
        if given and unit == "pages":
            value = value / page_size
        known = not given or unit in ("pages", "bytes")
    if not known:
        raise BadInput(f"{text!r} has a unit: give a plain number")
    if value < 0 or value != int(value):
        what = f"a whole number of {unit}" if unit else "a whole number"
        raise BadInput(f"{text!r}: give {what}")
    return int(value)


def is_integer(text: str) -> bool:
    """Whether a text is a number as it stands: the B of 0x1B is no unit."""
    try:
        int(text, 0)
    except ValueError:
        return False
    return True


def calculate(text: str, facts: Facts) -> float | int:
    """Return what a formula comes to: numbers, + - * / // % << >> & |, parentheses, and the names of facts.

    >>> calculate("(address >> 12) * 8", {"address": 0x5000})
    40
    """
    try:
        if len(text) > MAX_FORMULA:
            raise ValueError
        return evaluate(ast.parse(text.strip(), mode="eval").body, facts)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, KeyError, RecursionError, MemoryError):
        raise BadInput(f"cannot read {text.strip()[:80]!r} as a number; try 100 or 400 KiB") from None


def evaluate(node: ast.expr, facts: Facts) -> float | int:
    """Return the value of one part of a formula; raise when it is nothing that we calculate."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            number: float | int = value
        case ast.Name(id=name) if isinstance(facts[name], int):
            number = facts[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number = -evaluate(operand, facts)
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in OPERATORS:
            first, second = evaluate(left, facts), evaluate(right, facts)
            if isinstance(kind, ast.LShift) and second > 128:
                raise ValueError("too large")
            number = OPERATORS[type(kind)](first, second)
        case _:
            raise ValueError("no number")
    if not abs(number) < MAX_NUMBER:
        raise ValueError("too large")
    return number


def show_amount(value: int, unit: str, facts: Facts, hexadecimal: bool = False) -> str:
    """Return an amount for people: pages with their size."""
    if unit == "bytes":
        return format_size(value)
    if unit == "pages":
        size = f" ({format_size(value * int(facts['page_size']))})" if value else ""
        return f"{value:,} page{'' if value == 1 else 's'}{size}"
    return f"{value:#x} ({value:,})" if hexadecimal else f"{value:,}"
