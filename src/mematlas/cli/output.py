"""``-o FILE``: results as files, in the form that the file's name ends in."""

from __future__ import annotations

import os

from mematlas.cli.options import form_of
from mematlas.errors import BadInput, Error, did_you_mean
from mematlas.kernel.descriptors import open_files
from mematlas.views.format import format_path, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.kernel.newfile import NewFile
    from mematlas.views.figures.canvas import Canvas
    from mematlas.views.figures.curves import Plotter
    from mematlas.views.table import Table

FORMS = {".svg": "svg", ".png": "png", ".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""The form of a file, by the end of its name."""
PICTURES = ("svg", "png")
OF_MATPLOTLIB = ("MPLCONFIGDIR", "MATPLOTLIBRC", "HOME", "XDG_DATA_HOME", "PATH")
"""The variables that say where it keeps what it finds out, and has settings, fonts, and programs that list them."""


def add_file(arguments: Arguments) -> None:
    """Declare that a result may go to a file."""
    text = "into a file: table (.csv, .json) or picture (.svg, .png)"
    arguments.add_argument("-o", "--output", metavar="FILE", help=text)
    arguments.add_more("--force", action="store_true", help="replace a file of that name")


def file_form(args: Namespace) -> str | None:
    """Return the form of the file that is asked for; None where there is none.

    Raises:
        BadInput: its name ends in nothing that is known, or in another form than the one that is asked for.
    """
    if args.output is None:
        if args.force:
            raise BadInput("--force is for -o FILE")
        return None
    end = os.path.splitext(args.output)[1].lower()
    if end not in FORMS:
        *others, last = FORMS
        raise BadInput(
            f"{args.output}: the name of a file ends in {', '.join(others)} or {last}{did_you_mean(end, FORMS)}"
        )
    asked = form_of(args)
    if (args.json or args.format) and asked != FORMS[end]:
        raise BadInput(f"{args.output} is {FORMS[end]}: not with --format {asked}")
    return FORMS[end]


def new_file(args: Namespace, source: int | None = None) -> NewFile:
    """Return the file that is asked for, in the making.

    Raises:
        BadInput: it cannot be made, or is what the result is of, which is open.
    """
    from mematlas.kernel.newfile import NewFile

    path = args.output
    if source is not None and os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(source)):
        raise BadInput(f"{path} is what is to be read: give another name")
    return NewFile(path, args.force)


def write_table(table: Table, form: str, file: NewFile, session: Session) -> None:
    """Write a table into a file, as it would be printed."""
    from mematlas.views.writers import write

    with open(os.dup(file.fd), "w", encoding="utf-8", errors="backslashreplace") as out:
        write(table, form, out, session.machine())
    session.write_notes(table.notes)


def write_picture(canvas: Canvas, form: str, file: NewFile) -> None:
    """Write a picture into a file."""
    from mematlas.views.figures.png import png_of
    from mematlas.views.figures.svg import svg_of

    for data in (png_of if form == "png" else svg_of)(canvas):
        file.write(data)


def told_of(file: NewFile, session: Session) -> None:
    """Say that a file is there, as a whole from now on."""
    file.finish()
    session.write_lines([f"{format_path(file.path)}: {format_size(file.size)}"])


def plotter_of(form: str, path: str) -> tuple[Plotter, set[int]]:
    """Return what draws curves, loaded so that it goes on when rights are left, and what it has open: its fonts.

    Raises:
        LibraryMissing: matplotlib is not there, and a path was not written.
        Error: there is no room for what it keeps on disk while it is loaded.
    """
    from mematlas.views.figures.curves import Plotter

    before = open_files()
    with RoomForMatplotlib():
        return Plotter(form, path), open_files() - before


class RoomForMatplotlib:
    """Has matplotlib keep what it finds out where it is gone soon, and neither take settings or fonts of ours, nor run
    programs.

    Raises:
        Error: there is no room.
    """

    def __init__(self) -> None:
        import tempfile

        self._variables = dict(os.environ)
        found = tempfile.tempdir
        try:
            self._place = tempfile.TemporaryDirectory(prefix="mematlas-")
        except OSError as error:
            raise Error(f"a temporary directory: {error.strerror} (TMPDIR)") from None
        finally:
            tempfile.tempdir = found  # without our rights it may be another
        self._here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> None:
        os.environ |= dict.fromkeys(OF_MATPLOTLIB, self._place.name) | {"MPLBACKEND": "agg"}
        os.chdir(self._place.name)

    def __exit__(self, *exc: object) -> None:
        os.fchdir(self._here)
        os.close(self._here)
        os.environ.clear()
        os.environ |= self._variables
        self._place.cleanup()
