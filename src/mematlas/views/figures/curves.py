"""The curves of a recording as a picture, drawn by matplotlib: a panel for each process."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager
from importlib import import_module
from itertools import groupby

from mematlas.arrays import UNLOADABLE
from mematlas.errors import LibraryMissing
from mematlas.timeline.recorded_rows import RecordedProcess
from mematlas.timeline.ring import Kept
from mematlas.timeline.summary import Summary
from mematlas.timeline.tracks import Curve
from mematlas.views.colour import TONES
from mematlas.views.figures.lettering import width_of_words
from mematlas.views.figures.page import (
    BACKGROUND,
    BIG,
    LINE,
    MARGIN,
    PAGE_INK,
    PAGE_MUTED,
    PER_TICK,
    PLAIN,
    ROW,
    SMALL,
    WIDER,
    WIDTH,
    cut,
    ends_of,
    heading_of,
    in_letters,
    name_of_process,
)
from mematlas.views.figures.scale import LEAST_SPAN, end_of_axis, steps_up_to, time_ticks
from mematlas.views.format import UNITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

TITLE = "Memory over time"
EXTRA = "plot"
DPI, POINTS = 96, 72
"""Pixels of a picture, and points of letters, in an inch."""
SCALE = 2
"""Pixels of ours in one of the picture, along each side, where it has any."""
LEFT, RIGHT = 92, 28
HEAD, PANEL, BELOW = 40, 132, 8
"""Above the axes of a panel, the axes, and below them."""
MOST_SIZES = 4
"""Steps of an axis of sizes."""
AREA, AREA_FILL = "rss", "#e6eaf0"
"""The measure that all others are a part of, but swap: what is below its curve is filled."""
STYLES = {
    AREA: (TONES["absent"][True][0], "-", 1.2),
    "anon": (TONES["own"][True][0], "-", 1.6),
    "file": (TONES["shared"][True][0], (0, (6, 1.2)), 1.6),
    "shmem": (TONES["cached"][True][0], (0, (4, 1.2, 1, 1.2)), 1.6),
    "swap": (TONES["swapped"][True][0], (0, (2, 1.2)), 1.8),
}
"""Colour, dashes and thickness of each measure, in the order in which they are drawn."""
SETTINGS = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "text.parse_math": False,  # names have dollars
    "text.usetex": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "mematlas",  # the same each time
}
NOBODY = RecordedProcess(number=1, pid=1, start_time=0, name="", target="", first=1, end=None)
SAMPLES = tuple(Curve(NOBODY, measure, (0.0, 1.0), (0, 1), 1) for measure in STYLES)
"""What there is of curves, to try."""


class Plotter:
    """What draws curves as ``svg`` or ``png``: matplotlib, loaded with all that it needs later, its fonts too.

    Raises:
        LibraryMissing: it is not there, and a path was not written.
    """

    def __init__(self, form: str, path: str) -> None:
        self.form = form
        logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._matplotlib = import_module("matplotlib")
                self._figures = import_module("matplotlib.figure")
                self._backend = import_module(f"matplotlib.backends.backend_{'agg' if form == 'png' else 'svg'}")
                self._lines = import_module("matplotlib.lines")
                self._patches = import_module("matplotlib.patches")
            except UNLOADABLE as error:
                raise LibraryMissing("matplotlib", error, EXTRA, f"{path} was not written") from error
        # Fonts are looked for as they are needed, of each size anew: afterwards there may be no way to them.
        self._draw(Summary("", 2, 1, 1.0, 0.0, 0.0, {"host": "", "kernel": ""}, (), Kept()), SAMPLES)

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Have it draw as we want it to, whatever files of settings say, and say nothing of letters that a font
        lacks.
        """
        with warnings.catch_warnings(), self._matplotlib.rc_context():
            warnings.simplefilter("ignore")
            self._matplotlib.rcdefaults()
            self._matplotlib.rcParams.update(SETTINGS)
            yield

    def picture(self, summary: Summary, curves: Sequence[Curve], limit: int | None) -> bytes:
        """Return curves as a picture.

        Raises:
            LibraryMissing: what it is drawn with is out of reach by now.
        """
        try:
            return self._draw(summary, curves[:limit])
        except OSError as error:
            raise LibraryMissing("matplotlib", error, EXTRA) from error

    def _draw(self, summary: Summary, curves: Sequence[Curve]) -> bytes:
        with self._settings():
            return self._written(Page(self, summary, curves).figure)

    def figure(self, height: int) -> Any:
        """Return a figure that is so many pixels high."""
        return self._figures.Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI)

    def line(self, x: Sequence[float], y: Sequence[float], measure: str) -> Any:
        """Return a line as the curves of a measure are."""
        ink, dashes, thick = STYLES[measure]
        line = self._lines.Line2D(x, y, color=ink, linestyle=dashes, linewidth=thick, solid_capstyle="butt")
        line.set_clip_on(False)
        return line

    def box(self, x: float, y: float, width: float, height: float) -> Any:
        """Return a rectangle, filled as what is below a curve."""
        return self._patches.Rectangle((x, y), width, height, facecolor=AREA_FILL, linewidth=0)

    def _written(self, figure: Any) -> bytes:
        out = io.BytesIO()
        if self.form == "png":
            canvas = self._backend.FigureCanvasAgg(figure)
            canvas.print_figure(out, format="png", dpi=SCALE * DPI, facecolor=BACKGROUND, metadata={"Software": None})
            return out.getvalue()
        canvas = self._backend.FigureCanvasSVG(figure)
        canvas.print_figure(out, format="svg", facecolor=BACKGROUND, metadata={"Date": None, "Creator": None})
        data = out.getvalue()
        return data[data.index(b"<svg") :]  # what stands before it names a document elsewhere


class Page:
    """A figure, measured in pixels from its upper left corner."""

    def __init__(self, plotter: Plotter, summary: Summary, curves: Sequence[Curve]) -> None:
        self.plotter = plotter
        self.summary = summary
        self.panels = [(process, list(group)) for process, group in groupby(curves, key=lambda one: one.process)]
        self.top = MARGIN + BIG + 4 + 2 * ROW + 34
        """Where the legend stands; panels are below it."""
        self.height = self.top + len(self.panels) * (HEAD + PANEL + BELOW) + 2 * ROW + MARGIN
        self.figure = plotter.figure(self.height)
        self.ends = ends_of(summary)
        self.end = summary.seconds if summary.seconds >= LEAST_SPAN else 1.0
        self.ticks = time_ticks(summary.seconds, (WIDTH - LEFT - RIGHT) // (PER_TICK + 32))
        self._draw()

    def _draw(self) -> None:
        """Draw all of it."""
        title, *lines = heading_of(self.summary, TITLE, [process for process, _ in self.panels], self.ends)
        y = MARGIN + BIG
        self.write(MARGIN, y, title, BIG, bold=True)
        y += 4
        for line in lines:
            y += ROW
            self.write(MARGIN, y, line, PLAIN, PAGE_MUTED)
        self.legend()
        y = self.top
        for process, curves in self.panels:
            self.panel(y, process, curves)
            y += HEAD + PANEL + BELOW
        base = y + 12
        for tick in self.ticks:
            x = LEFT + (WIDTH - LEFT - RIGHT) * tick.at / self.end
            self.write(x, base, tick.text, SMALL, PAGE_MUTED, "center")
        self.write(LEFT - 4, base + ROW, "after the first look", SMALL, PAGE_MUTED)

    def write(
        self, x: float, y: float, text: str, size: float, ink: str = PAGE_INK, anchor: str = "left", bold: bool = False
    ) -> None:
        """Write a text that fits."""
        text = in_letters(text, ascii_only=self.plotter.form == "png")
        self.figure.text(
            x / WIDTH,
            1 - y / self.height,
            cut(text, WIDTH - MARGIN - x if anchor == "left" else WIDTH, size, bold),
            color=ink,
            size=size * POINTS / DPI,
            weight="bold" if bold else "normal",
            horizontalalignment=anchor,
            verticalalignment="baseline",
        )

    def legend(self) -> None:
        """Say what each line is."""
        x = float(MARGIN)
        measures = {curve.measure for _, curves in self.panels for curve in curves}
        for measure in (name for name in STYLES if name in measures):
            left, right = x / WIDTH, (x + 26) / WIDTH
            top, middle, bottom = (1 - (self.top - up) / self.height for up in (9, 4, 0))
            if measure == AREA:
                self.figure.add_artist(self.plotter.box(left, bottom, right - left, top - bottom))
                middle = top
            self.figure.add_artist(self.plotter.line([left, right], [middle, middle], measure))
            self.write(x + 32, self.top, measure, SMALL, PAGE_MUTED)
            x += 32 + width_of_words(measure, SMALL) * WIDER + 24

    def panel(self, y: float, process: RecordedProcess, curves: list[Curve]) -> None:
        """Draw what one process had."""
        self.write(MARGIN, y + HEAD - 12, name_of_process(process, self.ends), PLAIN, bold=True)
        bottom = y + HEAD + PANEL
        place = (LEFT / WIDTH, 1 - bottom / self.height, (WIDTH - LEFT - RIGHT) / WIDTH, PANEL / self.height)
        axes = self.figure.add_axes(place, facecolor="none")
        size, unit = unit_of(max((curve.peak for curve in curves), default=0))
        self.scale(axes, max(curve.peak for curve in curves) / size, unit)
        for curve in curves:
            amounts = [float("nan") if amount is None else amount / size for amount in curve.amounts]
            if curve.measure == AREA:
                axes.fill_between(curve.times, amounts, color=AREA_FILL, linewidth=0, zorder=0)
            line = self.plotter.line(curve.times, amounts, curve.measure)
            if len(amounts) == 1:
                line.set(marker="o", markersize=4)
            axes.add_line(line)

    def scale(self, axes: Any, peak: float, unit: str) -> None:
        """Give a panel its axes: of times, and of sizes up to a peak."""
        top = end_of_axis(peak, MOST_SIZES)
        steps = steps_up_to(top, MOST_SIZES)
        axes.set_xlim(0, self.end)
        axes.set_ylim(0, top)
        axes.set_xticks([tick.at for tick in self.ticks], [""] * len(self.ticks))
        axes.set_yticks(steps, [f"{step:,g} {unit}" if step else "0" for step in steps])
        axes.tick_params(length=0, labelcolor=PAGE_MUTED, labelsize=SMALL * POINTS / DPI, pad=8)
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)


def unit_of(size: int) -> tuple[float, str]:
    """Return the unit in which sizes up to one are told: its bytes, and its name.

    >>> unit_of(97 << 20), unit_of(0)
    ((1048576.0, 'MiB'), (1024.0, 'KiB'))
    """
    power = min(max((size.bit_length() - 1) // 10, 1), len(UNITS))
    return float(1024**power), UNITS[power - 1]
