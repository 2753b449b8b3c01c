"""Answers files: predictions made beforehand, as JSON.

One lesson: ``{"reserved": 0, "touched": "100 pages", ...}``, by the keys that the lesson shows with its questions.
Several: ``{"reserve": {"reserved": 0, ...}, "zero": {...}}``. An answer is a number or text: what one would type. A
file of another form is refused before anything begins; an answer that cannot be understood is not right.
"""

from __future__ import annotations

from mematlas.errors import BadInput
from mematlas.labs.lesson import Given, Lesson
from mematlas.labs.lessons import find_lesson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def read_answers(path: str, name: str | None) -> list[tuple[Lesson, Given]]:
    """Return the lessons that a file answers, or only the one of that name, each with its answers."""
    import json

    try:
        with open(path, encoding="utf-8") as file:
            data: Any = json.load(file)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid JSON: {error}") from None
    return choose_answers(data, name, path)


def choose_answers(data: Any, name: str | None, path: str) -> list[tuple[Lesson, Given]]:
    """Return what the contents of a file answer."""
    if not isinstance(data, dict) or not data:
        raise BadInput(f'{path}: answers are an object, such as {{"reserved": 0}}')
    strays = [key for key, answers in data.items() if not isinstance(answers, dict)]
    by_lesson = not strays
    if name is None and strays:
        if len(strays) < len(data):
            raise BadInput(f'{path}: {strays[0]!r} has no object of answers, such as {{"reserved": 0}}')
        raise BadInput(f'{path}: answers to which lesson? Name one, or begin with its name: {{"reserve": {{...}}}}')
    if name is not None:
        lesson = find_lesson(name)
        if by_lesson and name not in data:
            raise BadInput(f"{path}: answers to {', '.join(data)}, and not to {name}")
        data = {lesson.name: data[name] if by_lesson else data}
    chosen = []
    for key, answers in data.items():
        lesson = find_lesson(key)
        chosen.append((lesson, Given(checked(lesson, answers, path))))
    return chosen


def checked(lesson: Lesson, answers: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the answers to a lesson; refuse one to a question that it does not ask."""
    keys = [step.question.key for step in lesson.steps]
    unknown = [key for key in answers if key not in keys]
    if unknown:
        there_are = ", ".join(keys)
        raise BadInput(f"{path}: {lesson.name} does not ask {unknown[0]!r}: it asks {there_are}")
    return answers
