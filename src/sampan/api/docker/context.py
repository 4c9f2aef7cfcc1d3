"""One request, as handlers see it: its parameters read by Docker's rules, its answer's forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from sampan import __version__
from sampan.api.docker import versions
from sampan.errors import InvalidArgument, SampanError

if TYPE_CHECKING:
    from sampan.api.docker.server import ApiProtocol
    from sampan.api.docker.versions import Version
    from sampan.engine.core import Engine

__all__ = ["HEADERS", "Context", "empty", "error", "reply", "wording"]

HEADERS = {
    "Api-Version": versions.text(versions.MAXIMUM),
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"Sampan/{__version__} (linux)",
}
"""On every answer."""

_FALSE = {"", "0", "no", "false", "none"}
_encode = msgspec.json.Encoder().encode


class Context:
    """``parameters`` are the path's; ``version`` is the API version the client chose."""

    __slots__ = ("engine", "parameters", "protocol", "request", "version")

    def __init__(
        self,
        engine: Engine,
        request: web.BaseRequest,
        protocol: ApiProtocol,
        version: Version,
        parameters: tuple[str, ...],
    ) -> None:
        self.engine = engine
        self.request = request
        self.protocol = protocol
        self.version = version
        self.parameters = parameters

    def text(self, name: str, default: str = "") -> str:
        return self.request.query.get(name, default)

    def flag(self, name: str, default: bool = False) -> bool:
        """Anything but 0, no, false, none and the empty text is true."""
        value = self.request.query.get(name)
        return default if value is None else value.strip().lower() not in _FALSE

    def integer(self, name: str) -> int | None:
        """Raises InvalidArgument."""
        value = self.request.query.get(name)
        if value is None or value == "":
            return None
        try:
            return int(value)
        except ValueError as problem:
            raise InvalidArgument(f"{name}: '{value}' is not a number") from problem

    def filters(self) -> dict[str, list[str]]:
        """The ``filters`` parameter: ``{name: [values]}``, or the old ``{name: {value: true}}``.

        Raises InvalidArgument.
        """
        value = self.request.query.get("filters")
        if not value:
            return {}
        try:
            decoded = msgspec.json.decode(value)
            return {
                name: [item for item in values if not isinstance(values, dict) or values[item]]
                for name, values in decoded.items()
            }
        except (msgspec.DecodeError, AttributeError, TypeError) as problem:
            raise InvalidArgument(f"invalid filter: {value}") from problem

    async def body(self) -> Any:
        """The request's JSON; None for an empty body. Raises InvalidArgument."""
        data = await self.request.read()
        if not data:
            return None
        media = self.request.content_type
        if media != "application/json":
            raise InvalidArgument(
                f"unsupported Content-Type header ({media}): must be 'application/json'"
            )
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as problem:
            raise InvalidArgument(f"invalid JSON: {problem}") from problem


def reply(value: object, status: int = 200) -> web.Response:
    """``value`` as JSON."""
    return web.Response(body=_encode(value) + b"\n", status=status, content_type="application/json")


def empty(status: int = 204) -> web.Response:
    return web.Response(status=status)


# The docker client takes its exit code from these words of a failed start.
_WORDS = {
    127: ("executable file not found", "no such file or directory"),
    126: ("permission denied", "is a directory"),
}


def wording(problem: SampanError) -> str:
    """The message, with the words clients look for."""
    words = _WORDS.get(problem.exit_code, ())
    if words and not any(text in problem.message for text in words):
        return f"{problem.message}: {words[0]}"
    return problem.message


def error(problem: SampanError) -> web.Response:
    """An error in the API's form; NotModified has no body."""
    if problem.status == 304:
        return empty(304)
    return reply({"message": wording(problem)}, problem.status)
