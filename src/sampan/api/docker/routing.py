"""Paths to handlers.

A table per first segment, tried in order; ``{name}`` is one segment, except below ``/images``,
where names hold slashes. An operation that the API has and this version does not is answered
501 by its name; a path nobody knows, and a method a path does not have, 404, as dockerd does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sampan.errors import NotFound, NotSupported

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from sampan.api.docker.context import Context
    from sampan.api.http.connection import Answer

    Handler = Callable[[Context], Awaitable[Answer]]

__all__ = ["KNOWN", "Router"]

KNOWN = (
    ("GET", "/containers/{id}/changes", "ContainerChanges"),
    ("GET", "/containers/{id}/export", "ContainerExport"),
    ("GET", "/containers/{id}/stats", "ContainerStats"),
    ("POST", "/containers/{id}/restart", "ContainerRestart"),
    ("POST", "/containers/{id}/update", "ContainerUpdate"),
    ("GET", "/containers/{id}/attach/ws", "ContainerAttachWebsocket"),
    ("HEAD", "/containers/{id}/archive", "ContainerArchiveInfo"),
    ("GET", "/containers/{id}/archive", "ContainerArchive"),
    ("PUT", "/containers/{id}/archive", "PutContainerArchive"),
    ("POST", "/containers/prune", "ContainerPrune"),
    ("GET", "/containers/{id}/checkpoints", "CheckpointList"),
    ("POST", "/containers/{id}/checkpoints", "CheckpointCreate"),
    ("DELETE", "/containers/{id}/checkpoints/{checkpoint}", "CheckpointDelete"),
    ("POST", "/build", "ImageBuild"),
    ("POST", "/build/prune", "BuildPrune"),
    ("POST", "/build/cancel", "BuildCancel"),
    ("POST", "/images/{name}/push", "ImagePush"),
    ("GET", "/images/search", "ImageSearch"),
    ("POST", "/images/prune", "ImagePrune"),
    ("POST", "/auth", "SystemAuth"),
    ("POST", "/commit", "ImageCommit"),
    ("GET", "/system/df", "SystemDataUsage"),
    ("GET", "/networks", "NetworkList"),
    ("POST", "/networks/create", "NetworkCreate"),
    ("POST", "/networks/prune", "NetworkPrune"),
    ("GET", "/networks/{id}", "NetworkInspect"),
    ("DELETE", "/networks/{id}", "NetworkDelete"),
    ("POST", "/networks/{id}/connect", "NetworkConnect"),
    ("POST", "/networks/{id}/disconnect", "NetworkDisconnect"),
    ("GET", "/distribution/{name}/json", "DistributionInspect"),
    ("POST", "/session", "Session"),
    ("POST", "/grpc", "BuildKit control"),
    ("GET", "/plugins", "PluginList"),
    ("GET", "/nodes", "NodeList"),
    ("GET", "/swarm", "SwarmInspect"),
    ("POST", "/swarm/init", "SwarmInit"),
    ("POST", "/swarm/join", "SwarmJoin"),
    ("GET", "/services", "ServiceList"),
    ("GET", "/tasks", "TaskList"),
    ("GET", "/secrets", "SecretList"),
    ("GET", "/configs", "ConfigList"),
)


def _pattern(path: str) -> re.Pattern[str]:
    segment = "(.+)" if path.startswith(("/images/", "/distribution/")) else "([^/]+)"
    return re.compile(re.sub(r"\{[a-z]+\}", segment, path) + r"\Z")


def _first(path: str) -> str:
    return path[1:].partition("/")[0]


class Router:
    """Finds the handler of a method and a path without its version."""

    def __init__(self) -> None:
        self._exact: dict[tuple[str, str], Handler] = {}
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Handler]]] = {}
        self._known = [(method, _pattern(path), name) for method, path, name in KNOWN]

    def add(self, routes: Iterable[tuple[str, str, Handler]]) -> None:
        for method, path, handler in routes:
            if "{" in path:
                self._patterns.setdefault((method, _first(path)), []).append(
                    (_pattern(path), handler)
                )
            else:
                self._exact[method, path] = handler

    def find(self, method: str, path: str) -> tuple[Handler, tuple[str, ...]]:
        """Raises NotFound, NotSupported."""
        handler = self._exact.get((method, path))
        if handler is not None:
            return handler, ()
        for pattern, candidate in self._patterns.get((method, _first(path)), ()):
            match = pattern.match(path)
            if match is not None:
                return candidate, match.groups()
        for known, pattern, name in self._known:
            if known == method and pattern.match(path):
                raise NotSupported(f"{name} ({method} {path}) is not supported by this version")
        raise NotFound("page not found")
