"""Pictures as SVG: one file that needs no other, and holds nothing that runs.

What is written may be a stranger's: no character of it can end a text, or be one that XML has not. Sources:
www.w3.org/TR/SVG11, www.w3.org/TR/xml (2.2, Characters).
"""

from __future__ import annotations

from itertools import groupby

from mematlas.views.figures.canvas import HATCH, Box, Words
from mematlas.views.format import format_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.views.figures.canvas import Canvas

NAMESPACE = "http://www.w3.org/2000/svg"
FONTS = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"
MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
BLANK = "\u00a0"
"""A blank that stays one: of several others browsers make one, and of those at the ends none."""
PATTERN = (
    '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="2" height="5" fill="{}"/></pattern></defs>'
)


def svg_of(canvas: Canvas) -> Iterator[bytes]:
    """Yield a picture as the bytes of an SVG file."""
    for line in lines_of(canvas):
        yield f"{line}\n".encode()


def lines_of(canvas: Canvas) -> Iterator[str]:
    """Yield the lines of an SVG file."""
    width, height = canvas.width, canvas.height
    label = f'role="img" aria-label="{escaped(canvas.title)}"'
    yield f'<svg xmlns="{NAMESPACE}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" {label}>'
    if any(isinstance(shape, Box) and shape.fill == HATCH for shape in canvas.shapes):
        yield PATTERN.format(HATCH.split()[1])
    yield f'<rect width="{width}" height="{height}" fill="{canvas.paper}"/>'
    yield f'<g font-family="{FONTS}" style="font-variant-numeric: tabular-nums" shape-rendering="crispEdges">'
    for kind, shapes in groupby(canvas.shapes, type):
        if kind is Box:
            yield from paths_of(shape for shape in shapes if isinstance(shape, Box))
        else:
            yield from (text_of(shape) for shape in shapes if isinstance(shape, Words))
    yield "</g>"
    yield "</svg>"


def paths_of(boxes: Iterable[Box]) -> Iterator[str]:
    """Yield boxes, those of one colour as a single path."""
    by_fill: dict[str, list[str]] = {}
    for box in boxes:
        place = f"M{short(box.x)} {short(box.y)}h{short(box.width)}v{short(box.height)}h{short(-box.width)}z"
        by_fill.setdefault(box.fill, []).append(place)
    for fill, places in by_fill.items():
        paint = "url(#hatch)" if fill == HATCH else fill
        yield f'<path fill="{paint}" d="{"".join(places)}"/>'


def text_of(words: Words) -> str:
    """Return a text."""
    anchor = "" if words.anchor == "start" else f' text-anchor="{words.anchor}"'
    bold = ' font-weight="600"' if words.bold else ""
    whole = f"<title>{escaped(words.whole)}</title>" if words.whole else ""
    place = f'x="{short(words.x)}" y="{short(words.y)}" font-size="{short(words.size)}" fill="{words.ink}"'
    return f"<text {place}{anchor}{bold}>{whole}{escaped(words.text)}</text>"


def short(number: float) -> str:
    """Return a number of pixels as briefly as it goes.

    >>> short(12.0), short(0.125), short(-3)
    ('12', '0.12', '-3')
    """
    return f"{number:.2f}".rstrip("0").rstrip(".")


def escaped(text: str) -> str:
    """Return a text as XML has it, whatever is in it.

    >>> escaped("a<b>&]]>\\0"), escaped(" a  b") == f"{BLANK}a {BLANK}b"
    ('a&lt;b&gt;&amp;]]&gt;\\\\x00', True)
    """
    text = format_path(text).translate(MARKUP)
    if text[:1] == " ":
        text = BLANK + text[1:]
    if text[-1:] == " ":
        text = text[:-1] + BLANK
    return text.replace("  ", f" {BLANK}")
