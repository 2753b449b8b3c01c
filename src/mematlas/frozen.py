"""Records: frozen, slotted classes of named fields, as `dataclasses` makes them, without its cost.

Importing `dataclasses` takes 12 ms, which is more than the interpreter itself takes to start; the light
commands are to answer in less. What is made here behaves as ``@dataclass(frozen=True, slots=True)`` does.

>>> @record
... class Point:
...     x: int
...     y: int = 0
>>> Point(1)
Point(x=1, y=0)
>>> replace(Point(1), y=5) == Point(1, 5)
True
>>> Point(list(range(122)))
Point(x=<122 of int>, y=0)
"""

from __future__ import annotations

WORTH_COMPILING = 50
"""Instances from which on it pays to compile what makes them, which takes 0.1 ms: a start makes few of each."""

MOST_SHOWN = 10
"""Items of a list that the text of a record has at the most."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypeVar, dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(frozen_default=True)
    def record(cls: type[T]) -> type[T]: ...

else:

    def record(cls):
        """Return ``cls`` as a frozen, slotted class whose fields are its annotations, in order."""
        fields = tuple(cls.__annotations__)
        defaults = {name: cls.__dict__[name] for name in fields if name in cls.__dict__}
        body = {k: v for k, v in cls.__dict__.items() if k not in defaults and k not in ("__dict__", "__weakref__")}
        at_end, nr_needed = tuple(defaults.values()), len(fields) - len(defaults)
        nr_made = 0

        def first_init(self, *values, **named):
            nonlocal nr_made
            nr_made += 1
            if nr_made == WORTH_COMPILING:
                made.__new__ = staticmethod(compiled_new(made, fields, defaults))
                del made.__init__
            every = values
            if named:
                left = fields[len(values) :]
                given = defaults | named
                every = None if named.keys() - left else (*values, *[given[name] for name in left if name in given])
            elif len(values) >= nr_needed:
                every += at_end[len(values) - nr_needed :]
            if every is None or len(every) != len(fields):
                compiled_new(made, fields, defaults)(made, *values, **named)  # says what is wrong
            # The slot's own descriptor sets the value, past the __setattr__ below that forbids it.
            for set_field, value in zip(setters, every, strict=True):
                set_field(self, value)

        body |= {
            "__slots__": fields,
            "__match_args__": fields,
            "__init__": first_init,
            "__repr__": cls.__dict__.get("__repr__", _repr),
            "__reduce__": _reduce,
            "__eq__": _eq,
            "__hash__": _hash,
            "__setattr__": _refuse,
            "__delattr__": _refuse,
        }
        made = type(cls)(cls.__name__, cls.__bases__, body)
        setters = [made.__dict__[name].__set__ for name in fields]
        return made

    def compiled_new(cls, fields, defaults):
        """Return what makes a record in a fifth of the time.

        It makes one of a class with the same slots that can be filled, and turns it into what it is to be.
        """
        arguments = ", ".join(f"{name}=defaults[{name!r}]" if name in defaults else name for name in fields)
        lines = "".join(f"    self.{name} = {name}\n" for name in fields)
        fillable = type(cls.__name__, cls.__bases__, {"__slots__": fields})
        namespace = {"defaults": defaults, "make": object.__new__, "fillable": fillable}
        body = f"    self = make(fillable)\n{lines}    self.__class__ = cls\n    return self"
        exec(f"def __new__(cls, {arguments}):\n{body}", namespace)
        new = namespace["__new__"]
        new.__qualname__ = f"{cls.__qualname__}.__new__"
        return new


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, name) for name in self.__slots__)


def _repr(self: Any) -> str:
    pairs = ", ".join(f"{name}={_repr_of(getattr(self, name))}" for name in self.__slots__)
    return f"{type(self).__qualname__}({pairs})"


def _repr_of(value: Any) -> str:
    """Return what a shell shows of a field: of a long list, as the VMAs of a process are, how long it is."""
    if type(value) in (list, tuple) and len(value) > MOST_SHOWN:
        return f"<{len(value):,} of {type(value[0]).__name__}>"
    return repr(value)


def _reduce(self: Any) -> tuple[type, tuple[Any, ...]]:
    return type(self), _values(self)


def _eq(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _refuse(self: Any, name: str, *value: object) -> NoReturn:
    raise AttributeError(f"{type(self).__name__}.{name} cannot be changed: records are frozen")


class Record:
    """What a record that the library returns can do besides."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return its fields by name, as dictionaries, lists and plain values all the way down.

        ``json.dumps`` takes it. Addresses are integers here: readers of JSON other than Python's may lose their bits
        above 2^53.
        """
        return {name: plain(getattr(self, name)) for name in self.__match_args__}  # type: ignore[attr-defined]


class Tabular:
    """What a result that is a table can do besides. How its columns look is known to the views, a layer above: they are
    imported by name, when they are asked."""

    __slots__ = ()

    def to_arrow(self) -> Any:
        """Return it as a `pyarrow.Table`, with the columns that JSON has.

        Raises:
            NotSupported: pyarrow is not installed.
        """
        frames = frames_of_views()
        return frames.to_arrow(frames.table_of(self))

    def to_pandas(self) -> Any:
        """Return it as a `pandas.DataFrame`. What is not known is ``NA``, and whole numbers stay whole.

        Raises:
            NotSupported: pandas is not installed.
        """
        frames = frames_of_views()
        return frames.to_pandas(frames.table_of(self))

    def to_polars(self) -> Any:
        """Return it as a `polars.DataFrame`.

        Raises:
            NotSupported: polars is not installed.
        """
        frames = frames_of_views()
        return frames.to_polars(frames.table_of(self))

    def _repr_html_(self) -> str:
        return str(frames_of_views().to_html(self))


def frames_of_views() -> Any:
    """Return the module that makes tables of other libraries."""
    from importlib import import_module

    return import_module("mematlas.views.frames")


def plain(value: Any) -> Any:
    """Return a value with the records in it as dictionaries, sets and tuples as lists, others by their ``to_plain``.

    >>> plain((frozenset("ba"), {"x": (1, None)}))
    [['a', 'b'], {'x': [1, None]}]
    """
    if hasattr(type(value), "__match_args__"):
        return {name: plain(getattr(value, name)) for name in value.__match_args__}
    if hasattr(value, "to_plain"):
        return value.to_plain()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return list(map(plain, value))
    return sorted(value) if isinstance(value, frozenset | set) else value


def replace(item: T, **changes: Any) -> T:
    """Return a copy of a record with some fields changed."""
    return type(item)(**dict(zip(item.__slots__, _values(item), strict=True)) | changes)  # type: ignore[attr-defined]


def fields_of(kind: type) -> tuple[str, ...]:
    """Return the names of the fields of a record, in order."""
    names: tuple[str, ...] = kind.__slots__  # type: ignore[attr-defined]
    return names


def as_dict(item: object) -> dict[str, Any]:
    """Return the fields of a record by name, in order."""
    return dict(zip(item.__slots__, _values(item), strict=True))  # type: ignore[attr-defined]
