"""What a picture is made of: boxes and words at places, whatever it is written as.

Places are in pixels as screens count them, from the upper left corner; a text stands on its y.
"""

from __future__ import annotations

from mematlas.frozen import record
from mematlas.views.colour import TONES

HATCH = f"hatched {TONES['unknown'][True][0]}"
"""What a box is filled with of which nothing is known: no colour can be taken for it."""


@record
class Box:
    """A rectangle. Boxes that follow one another do not overlap."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    """A colour (``#rrggbb``), or `HATCH`."""


@record
class Words:
    """A text on one line."""

    x: float
    y: float
    text: str
    size: float
    ink: str
    anchor: str = "start"
    """Where x is in it: ``start``, ``middle`` or ``end``."""
    bold: bool = False
    whole: str = ""
    """What was cut to become the text: shown to who points at it, where that can be done."""


@record
class Canvas:
    """A picture: what is on it, from below upwards."""

    width: int
    height: int
    paper: str
    title: str
    """What it shows, for who cannot see it."""
    shapes: tuple[Box | Words, ...]
