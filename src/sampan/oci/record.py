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
``dict[str, T]``, ``object`` (any JSON value), and ``T | None`` of these. A field without a
default is required.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform, get_args, get_origin

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Record", "decode"]

_MISSING = object()
_NAMES = {str: "a string", int: "an integer", bool: "true or false", float: "a number"}


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
        if not isinstance(value, dict):
            raise InvalidArgument(
                f"{where or cls.__name__}: expected an object, not {_show(value)}"
            )
        types = cls._field_types()
        values: dict[str, object] = {}
        for name, key, defaulted in cls._fields():
            place = f"{where}.{key}" if where else key
            item = value.get(key)
            if item is not None:
                values[name] = decode(types[name], item, place)
            elif not defaulted:
                raise InvalidArgument(f"{place}: required, and missing")
        return cls(**values)

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


def _check_text(value: Any, where: str) -> None:
    """JSON can write half a surrogate pair, which no path, argument or log can."""
    if not value.isascii():
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise InvalidArgument(f"{where}: not a text: half of a surrogate pair") from None


def decode(kind: Any, value: object, where: str) -> Any:
    """Decode one JSON value as the type ``kind``; see the module's text for the types."""
    if isinstance(kind, type):
        if issubclass(kind, Record):
            return kind.from_json(value, where)
        if kind is object:
            return value
        good = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            good = True
        if not good and kind in _NAMES:
            raise InvalidArgument(f"{where}: expected {_NAMES[kind]}, not {_show(value)}")
        if good:
            if kind is str:
                _check_text(value, where)
            return value
    origin = get_origin(kind)
    arguments = get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise InvalidArgument(f"{where}: expected a list, not {_show(value)}")
        return tuple(decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise InvalidArgument(f"{where}: expected an object, not {_show(value)}")
        return {key: decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    chosen = [item for item in arguments if item is not type(None)]
    if len(chosen) != 1:
        raise TypeError(f"{where}: no decoder for {kind!r}")
    return decode(chosen[0], value, where)


def _encode(value: object) -> object:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, tuple):
        return [item if isinstance(item, str) else _encode(item) for item in value]
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    return value
