"""Where a cache says what happens: the log of whoever runs it, which is above it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Journal"]


class Journal(Protocol):
    def info(self, message: str, **fields: object) -> None: ...
    def warn(self, message: str, **fields: object) -> None: ...
    def error(self, message: str, **fields: object) -> None: ...
