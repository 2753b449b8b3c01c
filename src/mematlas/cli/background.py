"""The background of the terminal, dark or light: asked for where the environment does not say.

The question is OSC 11 of xterm, which most terminals know; behind it goes one that all of them answer (Primary Device
Attributes), so that nobody is waited for in vain. Source: "XTerm Control Sequences", which comes with xterm.
"""

from __future__ import annotations

import os

from mematlas.views.terminal import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

QUESTION = b"\x1b]11;?\x1b\\\x1b[c"
PATIENCE = 1.0
"""Seconds to wait for an answer, which a terminal at hand gives in a few milliseconds, one far away in some hundred.
Only one that answers nothing at all is waited for so long."""
LOOK_AGAIN = 0.05
"""Seconds until a signal that came meanwhile is seen."""
MAX_ANSWER = 256


def note_background(out: TextIO) -> None:
    """Have the palette fit the terminal that ``out`` is, where it says what its background is."""
    if "COLORFGBG" in os.environ or not is_ours(out):
        return
    light = is_light(ask(out.fileno(), QUESTION))
    if light is not None:
        from mematlas.views.colour import set_background

        set_background(light)


def ask(fd: int, question: bytes) -> bytes:
    """Return what the terminal answers, up to the end of its device attributes; less where it does not.

    What would end us waits until the terminal shows again what is typed.
    """
    import termios
    from contextlib import suppress

    from mematlas.kernel.signals import signals_held

    try:
        before = termios.tcgetattr(0)
    except termios.error:
        return b""
    quiet = [*before[:3], before[3] & ~(termios.ECHO | termios.ICANON), *before[4:]]
    answer = b""
    with signals_held():
        try:
            termios.tcsetattr(0, termios.TCSANOW, quiet)
            os.write(fd, question)
            answer = listen()
        except (OSError, termios.error):
            pass  # a terminal that is gone, or may not be asked
        finally:
            # What is late is not to be typed into the shell. Nothing else is thrown away where all has come.
            when = termios.TCSANOW if is_whole(answer) else termios.TCSAFLUSH
            with suppress(termios.error):
                termios.tcsetattr(0, when, before)
    return answer


def listen() -> bytes:
    """Return what comes from the terminal until the answer is whole, patience is at its end, or a signal waits."""
    import select
    import signal
    import time

    from mematlas.kernel.signals import ENDING

    end = time.monotonic() + PATIENCE
    answer = b""
    while not is_whole(answer) and len(answer) < MAX_ANSWER:
        left = end - time.monotonic()
        if left <= 0 or signal.sigpending().intersection(ENDING):
            break
        if select.select([0], [], [], min(left, LOOK_AGAIN))[0]:
            if not (part := os.read(0, MAX_ANSWER)):
                break  # a terminal that is gone has no more to say, whenever it is asked
            answer += part
    return answer


def is_whole(answer: bytes) -> bool:
    """Whether device attributes are in an answer: CSI ? ... c."""
    return b"c" in answer.rpartition(b"\x1b[?")[2] if b"\x1b[?" in answer else False


def is_light(answer: bytes) -> bool | None:
    """Return whether the background is light; None where the answer does not say it.

    >>> is_light(b"\\x1b]11;rgb:ffff/ffff/dddd\\x1b\\\\\\x1b[?64c"), is_light(b"\\x1b]11;rgb:1e/1e/2e\\x07\\x1b[?1;2c")
    (True, False)
    """
    _, found, colour = answer.partition(b"]11;rgb:")
    parts = colour.replace(b"\x07", b"\x1b").partition(b"\x1b")[0].split(b"/")
    try:
        red, green, blue = (int(part, 16) / (16 ** len(part) - 1) for part in parts)
    except (ValueError, ZeroDivisionError):
        return None
    return bool(found) and 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5
