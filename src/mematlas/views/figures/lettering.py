"""Letters made of strokes, for pictures that have no fonts: what ASCII has, drawn by us.

A letter is a list of strokes, and a stroke a list of points: x and y in units of which a capital is 7 high, from its
left end on the line that it stands on. A point with an asterisk is not on the stroke, but draws it there (the middle
point of a quadratic curve). `Letters` draws them with a round pen, smoothed at their edges.
"""

from __future__ import annotations

from itertools import pairwise

from mematlas.arrays import np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.arrays import NDArray

    Point = tuple[float, float]
    Coverage = NDArray[np.float32]

EM = 9.7
"""Units in the size of a text: a capital is as high as in most fonts of that size."""
SPACE = 2.0
"""Width of a blank."""
BETWEEN = 1.75
"""Units between two letters."""
PEN, BOLD_PEN = 0.88, 1.35
"""How thick strokes are."""
ABOVE, BELOW = 9.2, 3.4
"""Units over and under the line that letters stand on, at the most."""
STEPS = 7
"""Straight pieces that a curve is drawn as."""
BOX = "0,0 0,7 4,7 4,0 0,0"
"""What stands for a character that has no letter here."""
NARROW, WIDE = 6.0, 9.7
"""Units that a character takes which has none: of most scripts, and of those with square ones."""

BOWL = "0,2.5 *0,5 2.1,5 *4.2,5 4.2,2.5 *4.2,0 2.1,0 *0,0 0,2.5"
ROUND = "2.9,7 *0,7 0,3.5 *0,0 2.9,0 *5.8,0 5.8,3.5 *5.8,7 2.9,7"
ARCH = "0,3 *0.2,5 2.1,5 *4,5 4,3 4,0"
LOOP = "0,0 0,7 2.5,7 *4.5,7 4.5,5 *4.5,3 2.5,3 0,3"

STROKES = {
    "!": "0.1,7 0.1,2.2|0.1,0 0.1,0.12",
    '"': "0,7 0,5.2|1.7,7 1.7,5.2",
    "#": "1.5,6.8 0.7,0.2|4.1,6.8 3.3,0.2|0.2,4.6 5,4.6|-0.1,2.3 4.7,2.3",
    "$": "4,5.9 *3.3,6.6 2.1,6.6 *0.2,6.6 0.2,5.1 *0.2,3.9 2.1,3.5 *4.3,3 4.3,1.8 *4.3,0.4 2.1,0.4 *0.8,0.4 0,1.3"
    "|2.15,7.7 2.15,-0.7",
    "%": "1.4,7 *0,7 0,5.4 *0,3.8 1.4,3.8 *2.8,3.8 2.8,5.4 *2.8,7 1.4,7|5.6,7 1.7,0"
    "|5.9,3.2 *4.5,3.2 4.5,1.6 *4.5,0 5.9,0 *7.3,0 7.3,1.6 *7.3,3.2 5.9,3.2",
    "&": "5.2,0 1.3,4.5 *0.7,5.2 0.7,5.7 *0.7,7 2.1,7 *3.4,7 3.4,5.7 *3.4,4.6 2,3.9 *0,2.9 0,1.7 *0,0 2,0 *4.3,0 4.8,3",
    "'": "0,7 0,5.2",
    "(": "1.6,7.8 *0,6 0,3.2 *0,0.4 1.6,-1.4",
    ")": "0,7.8 *1.6,6 1.6,3.2 *1.6,0.4 0,-1.4",
    "*": "1.7,7 1.7,3.6|0.2,6.2 3.2,4.4|3.2,6.2 0.2,4.4",
    "+": "2.2,5.4 2.2,1|0,3.2 4.4,3.2",
    ",": "0.5,0.15 0.5,-0.2 0,-1.4",
    "-": "0,2.9 2.4,2.9",
    ".": "0.1,0 0.1,0.12",
    "/": "0,-0.9 2.7,7.4",
    "0": "2.1,7 *0,7 0,3.5 *0,0 2.1,0 *4.2,0 4.2,3.5 *4.2,7 2.1,7",
    "1": "0.6,5.8 2.3,7 2.3,0|0.7,0 3.9,0",
    "2": "0.2,5.6 *0.7,7 2.1,7 *4,7 4,5.1 *4,3.9 2.6,2.5 0.1,0 4.2,0",
    "3": "0.2,6.2 *0.9,7 2,7 *3.9,7 3.9,5.3 *3.9,3.7 1.9,3.7 1.3,3.7|1.9,3.7 *4.2,3.7 4.2,1.9 *4.2,0 2,0 *0.7,0 0,0.9",
    "4": "3.3,0 3.3,7 0,1.8 4.4,1.8",
    "5": "3.8,7 0.7,7 0.4,3.8 *1.2,4.4 2.1,4.4 *4.2,4.4 4.2,2.2 *4.2,0 2,0 *0.7,0 0,0.8",
    "6": "3.7,6.4 *3.1,7 2.4,7 *0,7 0,3 *0,0 2.1,0 *4.2,0 4.2,2.2 *4.2,4.4 2.2,4.4 *0.5,4.4 0,2.5",
    "7": "0,7 4.2,7 1.5,0",
    "8": "2.1,3.8 *0.3,3.8 0.3,5.4 *0.3,7 2.1,7 *3.9,7 3.9,5.4 *3.9,3.8 2.1,3.8 *0,3.8 0,1.9 *0,0 2.1,0"
    " *4.2,0 4.2,1.9 *4.2,3.8 2.1,3.8",
    "9": "0.5,0.6 *1.1,0 1.8,0 *4.2,0 4.2,4 *4.2,7 2.1,7 *0,7 0,4.8 *0,2.6 2,2.6 *3.7,2.6 4.2,4.5",
    ":": "0.1,0 0.1,0.12|0.1,4.5 0.1,4.62",
    ";": "0.5,0.15 0.5,-0.2 0,-1.4|0.5,4.5 0.5,4.62",
    "<": "3.8,5.6 0,3.2 3.8,0.8",
    "=": "0,4.2 4.2,4.2|0,2 4.2,2",
    ">": "0,5.6 3.8,3.2 0,0.8",
    "?": "0,5.9 *0.6,7 1.8,7 *3.6,7 3.6,5.4 *3.6,4.3 2.6,3.6 *1.7,2.9 1.7,2|1.7,0 1.7,0.12",
    "@": "5.4,4.7 5.4,2.4 *5.4,1.3 6.3,1.3 *7.4,1.3 7.4,3.2 *7.4,6.6 3.9,6.6 *0,6.6 0,2.6 *0,-1.4 3.9,-1.4"
    " *5.1,-1.4 5.9,-0.9|5.4,3 *5.4,4.7 3.8,4.7 *2.2,4.7 2.2,3 *2.2,1.3 3.8,1.3 *5.4,1.3 5.4,3",
    "A": "0,0 2.6,7 5.2,0|0.95,2.4 4.25,2.4",
    "B": "0,0 0,7 2.4,7 *4.2,7 4.2,5.4 *4.2,3.8 2.4,3.8 0,3.8|2.4,3.8 *4.6,3.8 4.6,1.9 *4.6,0 2.4,0 0,0",
    "C": "5,5.9 *4.2,7 2.9,7 *0,7 0,3.5 *0,0 2.9,0 *4.2,0 5,1.1",
    "D": "0,0 0,7 1.9,7 *5.1,7 5.1,3.5 *5.1,0 1.9,0 0,0",
    "E": "4,7 0,7 0,0 4.1,0|0,3.7 3.6,3.7",
    "F": "4,7 0,7 0,0|0,3.6 3.5,3.6",
    "G": "5,5.9 *4.2,7 2.9,7 *0,7 0,3.5 *0,0 2.9,0 *4.3,0 5.1,1 5.1,3.3 3.2,3.3",
    "H": "0,0 0,7|4.9,0 4.9,7|0,3.7 4.9,3.7",
    "I": "0,7 0,0",
    "J": "2.6,7 2.6,1.8 *2.6,0 1,0 *0.4,0 0,0.2",
    "K": "0,0 0,7|4.3,7 0,2.7|1.5,4.2 4.6,0",
    "L": "0,7 0,0 3.8,0",
    "M": "0,0 0,7 3,1.6 6,7 6,0",
    "N": "0,0 0,7 5,0 5,7",
    "O": ROUND,
    "P": LOOP,
    "Q": f"{ROUND}|3.6,1.7 5.6,-0.5",
    "R": f"{LOOP}|2.3,3 4.7,0",
    "S": "4.4,6 *3.6,7 2.3,7 *0.2,7 0.2,5.3 *0.2,4 2.3,3.6 *4.7,3.1 4.7,1.75 *4.7,0 2.3,0 *0.8,0 0,1.1",
    "T": "0,7 5.2,7|2.6,7 2.6,0",
    "U": "0,7 0,2.4 *0,0 2.4,0 *4.8,0 4.8,2.4 4.8,7",
    "V": "0,7 2.5,0 5,7",
    "W": "0,7 1.8,0 3.6,6.4 5.4,0 7.2,7",
    "X": "0.1,7 4.7,0|4.7,7 0,0",
    "Y": "0,7 2.4,3.3 4.8,7|2.4,3.3 2.4,0",
    "Z": "0.1,7 4.6,7 0,0 4.7,0",
    "[": "1.4,7.8 0,7.8 0,-1.4 1.4,-1.4",
    "\\": "0,7.4 2.7,-0.9",
    "]": "0,7.8 1.4,7.8 1.4,-1.4 0,-1.4",
    "^": "0,4.4 1.9,7 3.8,4.4",
    "_": "0,-1.3 4.4,-1.3",
    "`": "0,7.3 1.2,6",
    "a": "0.4,4.3 *1,5 2,5 *3.8,5 3.8,3.3 3.8,0|3.8,2.9 1.9,2.9 *0,2.9 0,1.45 *0,0 1.6,0 *3.2,0 3.8,1.5",
    "b": f"0,7.4 0,0|{BOWL}",
    "c": "3.8,4.2 *3.2,5 2.2,5 *0,5 0,2.5 *0,0 2.2,0 *3.2,0 3.8,0.8",
    "d": f"4.2,7.4 4.2,0|{BOWL}",
    "e": "0,2.65 4.2,2.65 *4.2,5 2.1,5 *0,5 0,2.5 *0,0 2.3,0 *3.3,0 3.9,0.8",
    "f": "2.8,7.3 2.4,7.4 *0.9,7.4 0.9,5.7 0.9,0|0,5 2.5,5",
    "g": f"4.2,5 4.2,-0.3 *4.2,-2.1 2.1,-2.1 *1.1,-2.1 0.4,-1.6|{BOWL}",
    "h": f"0,7.4 0,0|{ARCH}",
    "i": "0.1,5 0.1,0|0.1,7 0.1,7.12",
    "j": "1.1,5 1.1,-0.8 *1.1,-2.1 0,-2.1|1.1,7 1.1,7.12",
    "k": "0,7.4 0,0|3.6,5 0,1.9|1.3,3 3.9,0",
    "l": "0,7.4 0,1.2 *0,0 1.2,0",
    "m": "0,5 0,0|0,3 *0.2,5 1.8,5 *3.3,5 3.3,3 3.3,0|3.3,3 *3.5,5 5.1,5 *6.6,5 6.6,3 6.6,0",
    "n": f"0,5 0,0|{ARCH}",
    "o": BOWL,
    "p": f"0,5 0,-2.1|{BOWL}",
    "q": f"4.2,5 4.2,-2.1|{BOWL}",
    "r": "0,5 0,0|0,3 *0.2,5 1.9,5 2.4,4.9",
    "s": "3.4,4.3 *2.9,5 1.8,5 *0.1,5 0.1,3.75 *0.1,2.8 1.8,2.6 *3.6,2.35 3.6,1.3 *3.6,0 1.8,0 *0.6,0 0,0.8",
    "t": "0.9,6.6 0.9,1.4 *0.9,0 2.2,0 2.8,0.1|0,5 2.7,5",
    "u": "0,5 0,2 *0,0 1.9,0 *3.8,0 4,2|4,5 4,0",
    "v": "0,5 2,0 4,5",
    "w": "0,5 1.5,0 3,4.6 4.5,0 6,5",
    "x": "0.1,5 3.7,0|3.7,5 0,0",
    "y": "0,5 2.05,0|4.1,5 1.7,-1 *1.3,-2.1 0.3,-2.1",
    "z": "0.1,5 3.5,5 0,0 3.6,0",
    "{": "1.9,7.8 *0.8,7.8 0.8,6.5 0.8,4.6 *0.8,3.2 0,3.2 *0.8,3.2 0.8,1.8 0.8,-0.1 *0.8,-1.4 1.9,-1.4",
    "|": "0.1,7.8 0.1,-1.4",
    "}": "0,7.8 *1.1,7.8 1.1,6.5 1.1,4.6 *1.1,3.2 1.9,3.2 *1.1,3.2 1.1,1.8 1.1,-0.1 *1.1,-1.4 0,-1.4",
    "~": "0,2.7 *0.3,3.8 1.3,3.8 *2,3.8 2.5,3.2 *3,2.6 3.6,2.6 *4.6,2.6 4.9,3.7",
}
"""The letters of ASCII but the blank."""
DIGIT = 4.2
"""The width of every digit, so that numbers below one another align."""


def strokes_of(character: str) -> list[list[Point]]:
    """Return the strokes of a letter as straight pieces.

    >>> strokes_of("L")
    [[(0.0, 7.0), (0.0, 0.0), (3.8, 0.0)]]
    """
    return [list(points_of(stroke.split())) for stroke in STROKES.get(character, BOX).split("|")]


def points_of(words: list[str]) -> Iterator[Point]:
    """Yield the points of a stroke, with those that its curves are drawn by."""
    last, control = (0.0, 0.0), None
    for word in words:
        x, y = map(float, word.lstrip("*").split(","))
        if word[0] == "*":
            control = x, y
            continue
        if control:
            for step in range(1, STEPS):
                at = step / STEPS
                one, both, other = (1 - at) ** 2, 2 * at * (1 - at), at**2
                yield (
                    one * last[0] + both * control[0] + other * x,
                    one * last[1] + both * control[1] + other * y,
                )
        control = None
        last = x, y
        yield last


def advance(character: str) -> float:
    """Return the units that a character takes, with the room to the next one."""
    if character == " ":
        return SPACE + BETWEEN
    if character.isdigit() and character.isascii():
        return DIGIT + BETWEEN
    if character not in STROKES:
        return NARROW if character < "\u1100" else WIDE
    numbers = (float(word.lstrip("*").partition(",")[0]) for word in STROKES[character].replace("|", " ").split())
    return max(numbers) + BETWEEN


_advances: dict[str, float] = {}


def width_of_words(text: str, size: float, bold: bool = False) -> float:
    """Return how wide a text is, in the unit of its size: here, and about as wide in the fonts that others have.

    >>> width_of_words("00", 9.7) == 2 * width_of_words("1", 9.7)
    True
    """
    for character in set(text) - _advances.keys():
        _advances[character] = advance(character)
    units = sum(map(_advances.__getitem__, text))
    return (units + (BOLD_PEN - PEN) * len(text) * bold) * size / EM


class Letters:
    """Letters of one size and thickness, drawn once each."""

    def __init__(self, size: float, bold: bool = False) -> None:
        """``size`` is in the pixels that are drawn."""
        self.size = size
        self.bold = bold
        self.unit = size / EM
        self.above = round(ABOVE * self.unit)
        """Rows of pixels above the line that letters stand on."""
        self._drawn: dict[str, Coverage] = {}

    def width(self, text: str) -> float:
        """Return how many pixels a text takes, without room behind it."""
        return max(width_of_words(text, self.size, self.bold) - (BETWEEN - PEN) * self.unit, 0.0)

    def line(self, text: str) -> Coverage:
        """Return how much of each pixel a text covers, from 0 to 1."""
        margin = 2
        width = int(width_of_words(text, self.size, self.bold)) + 2 * margin
        drawn = np.zeros((self.above + round(BELOW * self.unit), width), np.float32)
        at = float(margin)
        for character in text:
            if character != " ":
                letter = self.letter(character)
                left = round(at) - margin
                part = drawn[:, left : left + letter.shape[1]]
                np.maximum(part, letter[:, : part.shape[1]], out=part)
            at += width_of_words(character, self.size, self.bold)
        return drawn[:, margin:]

    def letter(self, character: str) -> Coverage:
        """Return how much of each pixel a letter covers, with two columns to its left."""
        if character not in self._drawn:
            self._drawn[character] = self._draw(character)
        return self._drawn[character]

    def _draw(self, character: str) -> Coverage:
        margin, radius = 2, (BOLD_PEN if self.bold else PEN) * self.unit / 2
        width = int(advance(character) * self.unit) + 2 * margin
        y, x = np.mgrid[: self.above + round(BELOW * self.unit), :width].astype(np.float32)
        x, y = x - margin - radius, self.above - y
        distance = np.full(x.shape, np.inf, np.float32)
        for stroke in strokes_of(character):
            points = [(px * self.unit, py * self.unit) for px, py in stroke]
            for (ax, ay), (bx, by) in pairwise(points):
                length = (bx - ax) ** 2 + (by - ay) ** 2
                along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / (length or 1.0), 0, 1)
                np.minimum(distance, np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)), out=distance)
        covered: Coverage = np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)
        return covered
