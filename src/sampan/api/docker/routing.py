"""Paths to handlers.

A table per first segment, tried in order; ``{name}`` is one segment, except where names hold
slashes: those of images, of links between containers, and of plugins. ``/{any}`` is every path. An
operation that the API has and this version does not is answered 501 by its name; a path nobody
knows, and a method a path does not have, 404, as dockerd does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sampan.errors import NotFound, NotSupported

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from sampan.api.docker.context import Context
    from sampan.api.http.messages import Response
    from sampan.api.http.stream import Answer

    Handler = Callable[[Context], Response | Awaitable[Answer]]

__all__ = ["KNOWN", "Router"]

KNOWN = (
    ("POST", "/build", "ImageBuild"),
    ("POST", "/build/cancel", "BuildCancel"),
    ("POST", "/session", "Session"),
    ("POST", "/grpc", "BuildKit control"),
)


def _pattern(path: str) -> re.Pattern[str]:
    if path == "/{any}":
        return re.compile("/(.*)")
    slashes = path.startswith(("/containers/", "/images/", "/distribution/", "/plugins/"))
    segment = "(.+)" if slashes else "([^/]+)"
    return re.compile(re.sub(r"\{[a-z]+\}", segment, path) + r"\Z")


def _first(path: str) -> str:
    return path[1:].partition("/")[0]


class Router:
    """Finds the handler of a method and a path without its version."""

    def __init__(self) -> None:
        self._exact: dict[tuple[str, str], Handler] = {}
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Handler]]] = {}
        self._anywhere: dict[str, list[tuple[re.Pattern[str], Handler]]] = {}
        self._known = [(method, _pattern(path), name) for method, path, name in KNOWN]

    def add(self, routes: Iterable[tuple[str, str, Handler]]) -> None:
        for method, path, handler in routes:
            if path == "/{any}":
                self._anywhere[method] = [(_pattern(path), handler)]
            elif "{" in path:
                rows = self._patterns.setdefault((method, _first(path)), [])
                rows.append((_pattern(path), handler))
                # A name with slashes would take the longer path for itself.
                rows.sort(key=lambda row: -row[0].pattern.count("/"))
            else:
                self._exact[method, path] = handler

    def find(self, method: str, path: str) -> tuple[Handler, tuple[str, ...]]:
        """Raises NotFound, NotSupported."""
        handler = self._exact.get((method, path))
        if handler is not None:
            return handler, ()
        rows = self._patterns.get((method, _first(path)), self._anywhere.get(method, []))
        for pattern, candidate in rows:
            match = pattern.match(path)
            if match is not None:
                return candidate, match.groups()
        for known, pattern, name in self._known:
            if known == method and pattern.match(path):
                raise NotSupported(f"{name} ({method} {path}) is not supported by this version")
        raise NotFound("page not found")
