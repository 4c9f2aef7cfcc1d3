"""Files of rules in TOML (toml.io, 1.0), read into structs: what is wrong is told by key and line.

tomllib says where a text is no TOML, but not where a value of a wrong shape stands: the line is
looked up by the names of the tables, as people write them (``[[table]]`` and ``key = value``).
"""

from __future__ import annotations

import re
import tomllib
from typing import TypeVar

import msgspec

from sampan.errors import InvalidArgument

__all__ = ["matcher", "read_file", "seconds_of", "size_of"]

T = TypeVar("T")

_AT = re.compile(r" - at `\$\.?(.*)`$")
_PLACE = re.compile(r"([A-Za-z0-9_-]+)(?:\[([0-9]+)\])?(?:\.([A-Za-z0-9_-]+))?.*")
_FIELD = re.compile(r"field `([^`]+)`|^([a-z][a-z-]*): ")
_HEAD = re.compile(r'\s*\[(\[?)\s*"?([A-Za-z0-9_-]+)"?\s*\]')
_LENGTH = re.compile(r"([0-9]{1,6})(s|m|h|d|w)")
_LENGTHS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_SIZE = re.compile(r"([0-9]{1,15})(?:([kmgt])(i?)b?|b)?", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


def read_file(path: str, flag: str, kind: type[T]) -> T:
    """The file that ``flag`` names. Raises InvalidArgument."""
    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8")
    except OSError as error:
        raise InvalidArgument(f"{flag} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{flag} {path}: not UTF-8: {error}") from error
    try:
        return msgspec.convert(tomllib.loads(text), type=kind)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{flag} {path}: {error}") from error
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{flag} {path}: {_explained(text, str(error))}") from error


def _explained(text: str, said: str) -> str:
    """msgspec's words, with the line and the key in front."""
    at = _AT.search(said)
    words = _AT.sub("", said)
    place = _PLACE.fullmatch(at[1]) if at else None
    field = _FIELD.search(words)
    named = (field[1] or field[2]) if field else ""
    if place is None:
        line = _line(text, named, 0, "")
        return f"line {line}: {words}" if line else words
    table, index, key = place[1], int(place[2] or 0), place[3] or named
    line = _line(text, table, index, key)
    where = f"{table}[{index}]" if place[2] else table
    if place[3]:
        where += f".{place[3]}"
    return f"line {line}, {where}: {words}" if line else f"{where}: {words}"


def _line(text: str, table: str, index: int, key: str) -> int:
    """Where ``key`` of the table stands; else the table; 0 where it is not found."""
    found = -1
    inside = False
    line = 0
    for number, one in enumerate(text.splitlines(), 1):
        head = _HEAD.match(one)
        if head is not None:
            inside = head[2] == table
            found += inside
            inside = inside and found == index
            line = number if inside else line
        elif inside and key and re.match(rf'\s*"?{re.escape(key)}"?\s*=', one):
            return number
        elif found < 0 and re.match(rf'\s*"?{re.escape(table)}"?\s*=', one):
            line = number
    return line


def matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Of texts that one of the patterns fits: ``*`` is any text, slashes too."""
    return re.compile(
        "|".join(".*".join(map(re.escape, pattern.split("*"))) for pattern in patterns), re.DOTALL
    )


def seconds_of(key: str, text: str) -> float:
    """``90s``, ``15m``, ``12h``, ``30d``, ``2w``. Raises ValueError, which names the key."""
    match = _LENGTH.fullmatch(text)
    if match is None:
        raise ValueError(f'{key}: "{text}" is no length of time: write 90s, 15m, 12h, 30d or 2w')
    return int(match[1]) * _LENGTHS[match[2]]


def size_of(key: str, text: str) -> int:
    """``500MB``, ``10GiB``, bytes. Raises ValueError, which names the key."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'{key}: "{text}" is no size: write 500MB or 10GiB')
    base = 1024 if match[3] else 1000
    return int(match[1]) * (base ** _POWERS[match[2].lower()] if match[2] else 1)
