"""Times as users write them for ``--since`` and ``--until``, as the API takes them.

A length of time is that long ago; Unix seconds stand for themselves; a date or a time of RFC 3339
may end early and lack its zone, which is then this machine's.
"""

from __future__ import annotations

import re
import time

from sampan.errors import InvalidArgument

__all__ = ["moment"]

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?"
    r"([Zz]|[+-]\d\d:\d\d)?"
)


def moment(text: str, shown: str) -> str:
    """Unix seconds, with nanoseconds where they were given; "" for "". Raises InvalidArgument."""
    if not text or re.fullmatch(r"\d+(\.\d+)?", text):
        return text
    if re.fullmatch(f"({_LENGTH.pattern})+", text):
        ago = sum(float(number) * _UNITS[unit] for number, unit in _LENGTH.findall(text))
        return f"{time.time() - ago:.9f}"
    match = _TIME.fullmatch(text)
    if match is not None:
        day, hour, minute, second, fraction, zone = match.groups()
        clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}"
        offset = "+00:00" if zone in ("Z", "z") else zone or ""
        import datetime

        try:
            when = datetime.datetime.fromisoformat(f"{day}T{clock}{offset}")
            return f"{int(when.timestamp())}.{(fraction or '').ljust(9, '0')}"
        except ValueError:
            pass
    raise InvalidArgument(
        f"{shown}: {text}: expected a time (2026-01-02T13:23:37Z), Unix seconds, or 42m"
    )
