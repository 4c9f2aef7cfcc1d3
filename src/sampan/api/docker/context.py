"""One request, as handlers see it: its parameters read by Docker's rules, its answer's forms."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from sampan import __version__
from sampan.api.docker import versions
from sampan.api.http.messages import Request, Response
from sampan.errors import InvalidArgument, SampanError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sampan.api.docker.versions import Version
    from sampan.api.http.connection import Connection
    from sampan.api.http.stream import Stream
    from sampan.engine.core import Engine

__all__ = ["HEADERS", "Context", "empty", "error", "ordered", "reply", "wording"]

HEADERS = {
    "Api-Version": versions.text(versions.MAXIMUM),
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"Sampan/{__version__} (linux)",
}
"""On every answer."""

BODY_LIMIT = 4 * 1024 * 1024
"""Bytes of a JSON body."""
_SMALL = 64 * 1024
_VALUES = 100_000
"""In a body: an empty list is three bytes of JSON and a hundred of memory."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_filters = msgspec.json.Decoder(dict[str, list[str] | dict[str, bool] | None]).decode
_FALSE = {"", "0", "no", "false", "none"}
_encode = msgspec.json.Encoder().encode


class Context:
    """``parameters`` are the path's; ``version`` is the API version the client chose."""

    __slots__ = ("engine", "parameters", "request", "version")

    def __init__(
        self,
        engine: Engine,
        request: Request,
        version: Version,
        parameters: tuple[str, ...],
    ) -> None:
        self.engine = engine
        self.request = request
        self.version = version
        self.parameters = parameters

    @property
    def connection(self) -> Connection:
        return self.request.connection

    def stream(self, media_type: str = "application/json") -> Stream:
        """Begin an answer that comes piece by piece."""
        return self.connection.stream(self.request, media_type)

    def text(self, name: str, default: str = "") -> str:
        value = self.request.query.get(name)
        return default if value is None else value

    def flag(self, name: str, default: bool = False) -> bool:
        """Anything but 0, no, false, none and the empty text is true."""
        value = self.request.query.get(name)
        return default if value is None else value.strip().lower() not in _FALSE

    def integer(self, name: str) -> int | None:
        """Raises InvalidArgument."""
        value = self.request.query.get(name)
        if value is None or value == "":
            return None
        if _INTEGER.fullmatch(value) is None or not -(2**63) <= int(value) < 2**63:
            raise InvalidArgument(f"{name}: '{value[:40]}' is not a number")
        return int(value)

    def filters(self, known: Collection[str] | None = None) -> dict[str, list[str]]:
        """The ``filters`` parameter: ``{name: [values]}``, or the old ``{name: {value: true}}``.

        Raises InvalidArgument, for a name that is not ``known`` too.
        """
        value = self.request.query.get("filters")
        if not value:
            return {}
        try:
            decoded = _filters(value)
        except (msgspec.DecodeError, RecursionError) as problem:
            raise InvalidArgument(f"invalid filter: {value[:200]}: {problem}") from problem
        found = {}
        for name, values in decoded.items():
            if known is not None and name not in known:
                raise InvalidArgument(f"invalid filter '{name[:40]}': known are {', '.join(known)}")
            if values:
                # The old form says of each value whether it counts.
                flags = values if isinstance(values, dict) else dict.fromkeys(values, True)
                found[name] = [item for item, wanted in flags.items() if wanted]
        return found

    async def body(self) -> Any:
        """The request's JSON; None for an empty body. Raises InvalidArgument."""
        return self.read(await self.request.body.read(BODY_LIMIT))

    def read(self, data: bytes) -> Any:
        """A request's whole body, as ``body`` gives it. Raises InvalidArgument."""
        if not data:
            return None
        media = self.request.media_type
        if media != "application/json":
            raise InvalidArgument(
                f"unsupported Content-Type header ({media}): must be 'application/json'"
            )
        if len(data) > _SMALL and data.count(b",") + data.count(b"[") > _VALUES:
            raise InvalidArgument(f"the request's body has more than {_VALUES} values")
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise InvalidArgument(f"invalid JSON: {problem}") from problem
        return self._without_parameters(value)

    def _without_parameters(self, value: Any) -> Any:
        """Node's client (dockerode) sends all that it was given in the query and in the body: what
        is the query's, and written as that is, or its own (``_query``), asks for nothing there."""
        if not isinstance(value, dict):
            return value
        asked = self.request.query.get
        return {
            name: item
            for name, item in value.items()
            if name[:1].isupper() or (asked(name) is None and name[:1] != "_")
        }


def ordered(values: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A map as Go writes one: by its keys."""
    return dict(sorted(values.items())) if values else values


def reply(value: object, status: int = 200) -> Response:
    """``value`` as JSON."""
    return Response(status, _encode(value) + b"\n", "application/json")


def empty(status: int = 204) -> Response:
    return Response(status)


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


def error(problem: SampanError) -> Response:
    """An error in the API's form; NotModified has no body."""
    if problem.status == 304:
        return empty(304)
    return reply({"message": wording(problem)}, problem.status)
