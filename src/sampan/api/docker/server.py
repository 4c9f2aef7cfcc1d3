"""The HTTP server: aiohttp's low-level one, a router, and connections that can be taken over.

A request that asks for ``Upgrade: tcp`` ends HTTP on its connection. What the client sends behind
it, even in the same packet, belongs to the stream: the protocol stops parsing at the request's
last byte and keeps the rest (``take_rest``) for whoever takes the connection over, or gives it
back to the parser when the request was refused.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from typing import TYPE_CHECKING, Any

from aiohttp import web

from sampan.api.docker import containers, events, execs, images, system, versions
from sampan.api.docker.context import HEADERS, Context, error, reply
from sampan.api.docker.routing import Router
from sampan.engine.log import log
from sampan.errors import SampanError

if TYPE_CHECKING:
    from sampan.engine.core import Engine

__all__ = ["ApiProtocol", "ApiServer"]

_UPGRADE = re.compile(rb"\r\nupgrade:[ \t]*tcp[ \t]*\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,10})[ \t]*\r\n", re.IGNORECASE)


class ApiProtocol(web.RequestHandler):
    """A connection; see the module's text. ``lost`` is done when the client is gone."""

    __slots__ = ("_owed", "_rest", "_upgrading", "lost")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._upgrading = False
        self._owed = 0
        self._rest = b""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if self._upgrading and not self._owed:
            self._rest += data
            return
        if self._owed:
            part, self._rest = data[: self._owed], data[self._owed :]
            self._owed -= len(part)
            super().data_received(part)
            return
        head = data.find(b"\r\n\r\n")
        if head >= 0 and _UPGRADE.search(data, 0, head + 2):
            length = _LENGTH.search(data, 0, head + 2)
            end = head + 4 + (int(length[1]) if length else 0)
            self._upgrading = True
            self._owed = max(0, end - len(data))
            data, self._rest = data[:end], data[end:]
        super().data_received(data)

    def take_rest(self) -> bytes:
        """What came behind the upgrade request; HTTP is over."""
        rest, self._rest = self._rest, b""
        return rest

    def refuse_upgrade(self) -> None:
        """The request was answered as an ordinary one: HTTP goes on."""
        if self._upgrading:
            self._upgrading, self._owed = False, 0
            rest = self.take_rest()
            if rest:
                self.data_received(rest)

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        super().connection_lost(exc)


class ApiServer(web.Server):
    """The protocol factory for ``loop.create_unix_server`` and its like."""

    def __init__(self, engine: Engine) -> None:
        self._options: dict[str, Any] = {"access_log": None, "auto_decompress": False}
        super().__init__(self._dispatch, **self._options)
        self._engine = engine
        self._router = Router()
        for part in (system, events, containers, execs, images):
            self._router.add(part.ROUTES)

    def __call__(self) -> ApiProtocol:
        return ApiProtocol(self, loop=asyncio.get_running_loop(), **self._options)

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        assert isinstance(protocol, ApiProtocol)
        response: web.StreamResponse
        try:
            version, path = versions.split_version(request.path)
            handler, parameters = self._router.find(request.method, path)
            response = await handler(Context(self._engine, request, protocol, version, parameters))
        except SampanError as problem:
            log.debug(
                "request refused", method=request.method, path=request.path, error=problem.message
            )
            response = error(problem)
        except ConnectionError:
            raise
        except (OSError, sqlite3.Error) as problem:
            # A full disk, a limit of this process: the client's answer has the usual form.
            log.error("request failed", method=request.method, path=request.path, error=problem)
            response = reply({"message": f"{request.method} {request.path}: {problem}"}, 500)
        if not response.prepared:
            response.headers.update(HEADERS)
            protocol.refuse_upgrade()
        return response
