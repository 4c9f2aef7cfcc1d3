"""What a template can call: text/template's built-in functions, and those Docker adds.

A function gets values and raises TypeError, ValueError, KeyError or IndexError for those it cannot
use; who evaluates says which call it was.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sampan.template.values import NOTHING, Map, Nothing, show, to_json, truth

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FUNCTIONS"]


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            empty = value.empty if isinstance(value, Map) else NOTHING
            value = value.get(key, empty)
        elif value is None or isinstance(value, Nothing):
            raise TypeError("index of nil")
        elif isinstance(key, int) and not isinstance(key, bool):
            if not 0 <= key < len(value):
                raise IndexError(f"index out of range: {key}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        else:
            raise TypeError(f"cannot index with {show(key)}")
    return value


def _slice(value: Any, *bounds: int) -> Any:
    begin, end = (*bounds, *(0, len(value))[len(bounds) :])
    if not 0 <= begin <= end <= len(value):
        raise IndexError(f"index out of range: {begin}:{end}")
    return value[begin:end]


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (list, dict)):
        return len(value)
    raise TypeError(f"len of {show(value)}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {show(value)}")
    return value


def _title(value: Any) -> str:
    return re.sub(r"(^|[^\w'])(\w)", lambda m: m[1] + m[2].upper(), _text(value))


def _join(items: Any, glue: str) -> str:
    if items is not None and not isinstance(items, list):
        raise TypeError(f"expected a list of strings, got {show(items)}")
    return glue.join(map(show, items or []))


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _escaper(table: dict[str, str]) -> Callable[..., str]:
    def escape(*values: Any) -> str:
        return "".join(table.get(c, c) for c in "".join(map(show, values)))

    return escape


_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"}
_JS = {
    "\\": "\\\\",
    "'": "\\'",
    '"': '\\"',
    "<": "\\u003C",
    ">": "\\u003E",
    "&": "\\u0026",
    "=": "\\u003D",
    "\n": "\\u000A",
}


def _urlquery(*values: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus("".join(map(show, values)), safe="~")


_VERB = re.compile(r"%([-+ #0]*)(\*|\d+)?(?:\.(\d+))?(.)", re.DOTALL)


def _printf(layout: str, *values: Any) -> str:
    """fmt.Sprintf with the verbs people write."""
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if width == "*":
            width = str(rest.pop(0)) if rest else ""
        if not rest:
            return f"%!{verb}(MISSING)"
        text = _verb(verb, flags, precision, rest.pop(0))
        wide = int(width or 0)
        if "-" in flags:
            return text.ljust(wide)
        return text.zfill(wide) if "0" in flags and verb != "s" else text.rjust(wide)

    text = _VERB.sub(one, layout)
    if rest:
        text += "%!(EXTRA " + ", ".join(f"{_kind(v)}={show(v)}" for v in rest) + ")"
    return text


def _verb(verb: str, flags: str, precision: str | None, value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if verb == "v" or (verb == "t" and isinstance(value, bool)):
        return show(value)
    if verb == "s" and not whole:
        text = show(value)
        return text if precision is None else text[: int(precision)]
    if verb == "q" and isinstance(value, str):
        return to_json(value)
    if verb in "xX" and isinstance(value, str):
        text = value.encode().hex()
        return text.upper() if verb == "X" else text
    if verb in "dxXob" and whole:
        sign = "+" if "+" in flags else ""
        return format(value, f"{sign}{'#' if '#' in flags else ''}{verb}")
    if verb == "c" and whole:
        return chr(value)
    if verb in "feEgG" and isinstance(value, float):
        return format(value, f"{'+' if '+' in flags else ''}.{precision or 6}{verb}")
    if verb == "T":
        return _kind(value)
    return f"%!{verb}({_kind(value)}={show(value)})"


def _kind(value: Any) -> str:
    names = {str: "string", bool: "bool", int: "int", float: "float64", list: "[]interface {}"}
    return names.get(type(value), "map[string]interface {}")


def _print(*values: Any) -> str:
    """fmt.Sprint: spaces between operands when neither is a string."""
    out = ""
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out += " "
        out += show(value)
    return out


def _compare(wanted: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(left: Any, right: Any) -> bool:
        if isinstance(left, str) != isinstance(right, str):
            raise TypeError("incompatible types for comparison")
        return wanted(left, right)

    return compare


def _equal(left: Any, *others: Any) -> bool:
    if not others:
        raise TypeError("missing argument for comparison")
    return any(left == other for other in others)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": _equal,
    "ge": _compare(lambda left, right: left >= right),
    "gt": _compare(lambda left, right: left > right),
    "html": _escaper(_HTML),
    "index": _index,
    "join": _join,
    "js": _escaper(_JS),
    "json": to_json,
    "le": _compare(lambda left, right: left <= right),
    "len": _len,
    "lower": lambda value: _text(value).lower(),
    "lt": _compare(lambda left, right: left < right),
    "ne": lambda left, right: left != right,
    "not": lambda value: not truth(value),
    "pad": _pad,
    "print": _print,
    "printf": _printf,
    "println": lambda *values: " ".join(map(show, values)) + "\n",
    "slice": _slice,
    "split": lambda text, by: _text(text).split(by) if by else list(text),
    "title": _title,
    "truncate": lambda text, length: _text(text)[:length],
    "upper": lambda value: _text(value).upper(),
    "urlquery": _urlquery,
}
"""Without ``and`` and ``or``: those stop at the operand that decides, so evaluation has them."""
