"""The daemon's own log: one line an event on standard error, as ``key=value`` or as JSON.

Levels as dockerd's: debug, info, warn, error. In the text form values with spaces are quoted as
JSON strings, so that a line never breaks. Whoever starts the daemon decides where standard error
goes.
"""

from __future__ import annotations

import json
import sys
import time

from sampan.errors import InvalidArgument

__all__ = ["FORMATS", "LEVELS", "Log", "log"]

LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50}
FORMATS = ("text", "json")


def _value(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not any(c in ' "=' for c in text) and text
    return text if plain else json.dumps(text)


def _text(fields: dict[str, object]) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in fields.items())


def _json(fields: dict[str, object]) -> str:
    plain = (str, int, float, bool)
    return json.dumps(
        {key: value if isinstance(value, plain) else str(value) for key, value in fields.items()}
    )


class Log:
    """Writes lines of at least ``level``."""

    def __init__(self) -> None:
        self._level = LEVELS["info"]
        self._form = _text

    def set_level(self, name: str) -> None:
        """Raises InvalidArgument."""
        if name not in LEVELS:
            raise InvalidArgument(f"--log-level {name}: use one of {', '.join(LEVELS)}")
        self._level = LEVELS[name]

    def set_format(self, name: str) -> None:
        """Raises InvalidArgument."""
        if name not in FORMATS:
            raise InvalidArgument(f"--log-format {name}: use one of {', '.join(FORMATS)}")
        self._form = _json if name == "json" else _text

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if LEVELS[level] < self._level:
            return
        moment = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
        head = {
            "time": f"{stamp}.{int(moment % 1 * 1e6):06d}Z",
            "level": level,
            "msg": message,
        }
        try:
            sys.stderr.write(self._form({**head, **fields}) + "\n")
            sys.stderr.flush()
        except OSError:
            return  # a full disk behind standard error, or its reader is gone: we go on

    @property
    def debugging(self) -> bool:
        """Debug lines are written: for those whose fields are not at hand."""
        return self._level <= LEVELS["debug"]

    def debug(self, message: str, **fields: object) -> None:
        self._write("debug", message, fields)

    def info(self, message: str, **fields: object) -> None:
        self._write("info", message, fields)

    def warn(self, message: str, **fields: object) -> None:
        self._write("warn", message, fields)

    def error(self, message: str, **fields: object) -> None:
        self._write("error", message, fields)


log = Log()
