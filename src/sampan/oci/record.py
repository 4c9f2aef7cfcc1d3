"""Frozen records with a strict JSON form, in the standard library only.

The OCI runtime specification is read by processes that must start in milliseconds (tier 0 of
``docs/architecture.md``), so neither msgspec (a dependency) nor dataclasses (each class is
compiled by ``exec`` at import: 50 classes cost 20 ms) will do. A ``Record`` reads its fields from
the class's annotations, when it is first used.

Field ``uid_mappings`` is ``uidMappings`` in JSON; a class says where that rule does not hold with
``json_names = {"container_id": "containerID"}``. Decoding is strict about types and names the
place of what is wrong (``linux.resources.memory.limit: expected an integer, not "1g"``), ignores
unknown properties (runtime-spec, "Extensibility"), and takes JSON ``null`` for an absent field.

Field types may be: ``str``, ``int``, ``bool``, ``float``, another ``Record``, ``tuple[T, ...]``,
``dict[str, T]``, ``object`` (any JSON value), and ``T | None`` of these; a field of another type
cannot be decoded. One without a default is required.

A container's maker decodes two hundred values while somebody waits, so what a type means is worked
out once (``_make_readers``), and where a wrong value is only when there is one.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform, get_args, get_origin

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    Reader = Callable[[Any], object]

__all__ = ["Misread", "Record"]

_MISSING = object()


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Record:
    """Base of a frozen value with named, typed fields; see the module's text."""

    json_names: ClassVar[dict[str, str]] = {}
    _names: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, object]] = {}
    _keys: ClassVar[tuple[tuple[str, str, bool], ...] | None] = None
    _types: ClassVar[dict[str, object] | None] = None
    _readers: ClassVar[tuple[tuple[str, str, Reader, bool], ...] | None] = None

    def __init_subclass__(cls) -> None:
        own = [
            name
            for name, kind in cls.__dict__.get("__annotations__", {}).items()
            if not str(kind).startswith("ClassVar")
        ]
        cls._names = (*cls._names, *(name for name in own if name not in cls._names))
        cls._defaults = {
            **cls._defaults,
            **{name: cls.__dict__[name] for name in own if name in cls.__dict__},
        }
        cls._keys = None
        cls._types = None
        cls._readers = None

    def __init__(self, **values: Any) -> None:
        state = self.__dict__
        for name in self._names:
            value = values.pop(name, _MISSING)
            if value is _MISSING:
                if name not in self._defaults:
                    raise TypeError(f"{type(self).__name__}: {name} is required")
                value = self._defaults[name]
            state[name] = value
        if values:
            raise TypeError(f"{type(self).__name__}: unknown field {min(values)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *(self.__dict__[name] for name in self._names)))

    def __repr__(self) -> str:
        shown = (
            f"{name}={self.__dict__[name]!r}"
            for name in self._names
            if self.__dict__[name] != self._defaults.get(name, _MISSING)
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def replace(self, **changes: Any) -> Self:
        """The same record with some fields changed."""
        return type(self)(**{**self.__dict__, **changes})

    @classmethod
    def from_json(cls, value: object, where: str = "") -> Self:
        """Decode a JSON object; ``where`` prefixes the place an error names."""
        try:
            return cls._read(value)
        except Misread as error:
            place = error.place(where) or cls._label()
            raise InvalidArgument(f"{place}: {error.reason}") from None

    @classmethod
    def _label(cls) -> str:
        """What an error calls the whole of a value that is in no other."""
        return cls.__name__

    @classmethod
    def _read(cls, value: object) -> Self:
        if not isinstance(value, dict):
            raise Misread(f"expected an object, not {_show(value)}")
        fields = dict(cls._defaults)
        given = value.get
        key = ""
        try:
            for name, key, reader, is_required in cls._readers or cls._make_readers():
                item = given(key)
                if item is not None:
                    fields[name] = reader(item)
                elif is_required:
                    raise Misread("required, and missing")
        except Misread as error:
            error.path.append(f".{key}")
            raise
        record = cls.__new__(cls)
        object.__setattr__(record, "__dict__", fields)
        return record

    def to_json(self) -> dict[str, object]:
        """The JSON object, without fields that are ``None`` or hold an empty default."""
        result: dict[str, object] = {}
        fields = self.__dict__
        for name, key, defaulted in self._fields():
            value = fields[name]
            if value is None or (defaulted and not value and isinstance(value, tuple | dict)):
                continue
            result[key] = value if isinstance(value, str) else _encode(value)
        return result

    @classmethod
    def _fields(cls) -> tuple[tuple[str, str, bool], ...]:
        """Name, name in JSON, and whether there is a default; of each field."""
        if cls._keys is None:
            cls._keys = tuple(
                (name, cls.json_names.get(name) or _camel(name), name in cls._defaults)
                for name in cls._names
            )
        return cls._keys

    @classmethod
    def _make_readers(cls) -> tuple[tuple[str, str, Reader, bool], ...]:
        """Name, name in JSON, decoder, and whether it must be there; of each field."""
        types = cls._field_types()
        cls._readers = tuple(
            (name, key, _reader_of(types[name], f"{cls.__name__}.{name}"), not defaulted)
            for name, key, defaulted in cls._fields()
        )
        return cls._readers

    @classmethod
    def _field_types(cls) -> dict[str, object]:
        if cls._types is None:
            types: dict[str, object] = {}
            for base in reversed(cls.__mro__):
                scope = vars(sys.modules[base.__module__])
                for name, kind in base.__dict__.get("__annotations__", {}).items():
                    if name in cls._names:
                        # Annotations are the project's own source text, never input.
                        types[name] = eval(kind, scope) if isinstance(kind, str) else kind
            cls._types = types
        return cls._types


def _show(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    if isinstance(value, dict | list):
        text = "an object" if isinstance(value, dict) else "a list"
    return text if len(text) <= 60 else text[:57] + "..."


class Misread(Exception):
    """A value that is not what its type says: why, and where it is, from the inside out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def place(self, where: str) -> str:
        return (where + "".join(reversed(self.path))).removeprefix(".")


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise Misread(f"expected a string, not {_show(value)}")
    if not value.isascii():
        # JSON can write half a surrogate pair, which no path, argument or log can.
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise Misread("not a text: half of a surrogate pair") from None
    return value


def _read_integer(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Misread(f"expected an integer, not {_show(value)}")


def _read_bool(value: object) -> object:
    if value is True or value is False:
        return value
    raise Misread(f"expected true or false, not {_show(value)}")


def _read_number(value: object) -> object:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return value
    raise Misread(f"expected a number, not {_show(value)}")


def _read_any(value: object) -> object:
    return value


def _tuple_reader(read: Reader) -> Reader:
    def read_list(value: object) -> object:
        if not isinstance(value, list):
            raise Misread(f"expected a list, not {_show(value)}")
        index = 0
        found = []
        try:
            for item in value:
                found.append(read(item))
                index += 1
        except Misread as error:
            error.path.append(f"[{index}]")
            raise
        return tuple(found)

    return read_list


def _read_texts(value: object) -> object:
    """A list of strings, the most common of all; one call when all of them are ASCII."""
    if isinstance(value, list):
        try:
            if all(map(str.isascii, value)):
                return tuple(value)
        except TypeError:
            pass  # Not a string: it is named below.
    return _read_any_texts(value)


_read_any_texts = _tuple_reader(_read_text)


def _dict_reader(read: Reader) -> Reader:
    def read_object(value: object) -> object:
        if not isinstance(value, dict):
            raise Misread(f"expected an object, not {_show(value)}")
        key = ""
        found = {}
        try:
            for key, item in value.items():
                found[key] = read(item)
        except Misread as error:
            error.path.append(f".{key}")
            raise
        return found

    return read_object


_SIMPLE: dict[object, Reader] = {
    str: _read_text,
    int: _read_integer,
    bool: _read_bool,
    float: _read_number,
    object: _read_any,
}


def _reader_of(kind: Any, where: str) -> Reader:
    """The decoder of one type; see the module's text for those there are."""
    if isinstance(kind, type) and issubclass(kind, Record):
        return kind._read
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        inner = _reader_of(arguments[0], where)
        return _read_texts if inner is _read_text else _tuple_reader(inner)
    if origin is dict:
        return _dict_reader(_reader_of(arguments[1], where))
    chosen = [item for item in arguments if item is not type(None)]
    if len(chosen) == 1:
        return _reader_of(chosen[0], where)

    def refuse(value: object) -> object:
        raise TypeError(f"{where}: no decoder for {kind!r}")

    return refuse


def _encode(value: object) -> object:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, tuple):
        return [item if isinstance(item, str) else _encode(item) for item in value]
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    return value
