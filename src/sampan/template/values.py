"""Values of a template, and how Go prints them (fmt's %v, encoding/json).

JSON has objects where Go has structs and maps, and null for what is nil of any type. What tells
them apart here: a ``Map`` may lack any key; another dict is a struct, whose missing field is an
error; ``None`` is a nil pointer, and ``NOTHING`` what a map does not have.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["NOTHING", "Map", "Nil", "NilList", "Nothing", "Struct", "show", "to_json", "truth"]


class Map(dict[str, Any]):
    """A Go map: prints as ``map[key:value]``, sorted; ``empty`` is what index finds at no key."""

    empty: Any = ""


class Struct(dict[str, Any]):
    """A Go struct from JSON that leaves empty fields out.

    ``optional`` is what those are then; ``aliases`` its fields whose name in JSON is another;
    ``fields`` the order in which it prints.
    """

    aliases: dict[str, str] = {}
    fields: tuple[str, ...] = ()
    optional: dict[str, Any] = {}


class Nil:
    """With a map's or a list's type: there is none. It prints as an empty one, and in JSON as
    null."""


class NilList(Nil, list[Any]):
    pass


class Nothing:
    """What is not there at all; prints as ``<no value>``."""

    def __bool__(self) -> bool:
        return False


NOTHING = Nothing()


def truth(value: Any) -> bool:
    """Go's idea of true: not nil, zero or empty; a struct is always true."""
    if isinstance(value, dict) and not isinstance(value, Map):
        return True
    return bool(value)


def show(value: Any) -> str:
    """A value as ``{{.}}`` prints it."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, Nothing):
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, list):
        return "[" + " ".join(map(show, value)) + "]"
    if isinstance(value, Map):
        return "map[" + " ".join(f"{key}:{show(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, Struct) and value.fields:
        fields = (value.get(name, value.optional.get(name, "")) for name in value.fields)
        return "{" + " ".join(map(show, fields)) + "}"
    if isinstance(value, dict):
        return "{" + " ".join(map(show, value.values())) + "}"
    return str(value)


def _float(value: float) -> str:
    """strconv's 'g': the shortest digits that give the value back, no point if it is whole."""
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent):+03d}" if e else text


def to_json(value: Any, *, html: bool = False) -> str:
    """Compact JSON; a map's keys sorted; with ``html``, ``< > &`` escaped as Go does by default."""
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    if html:
        for character in "<>&":
            text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Nil | Nothing):
        return None
    if isinstance(value, Map):
        return {key: _plain(value[key]) for key in sorted(value) if not callable(value[key])}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
