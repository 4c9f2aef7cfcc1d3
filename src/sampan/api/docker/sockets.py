"""Attach over a WebSocket: the daemon stands between its frames and the monitor's bytes.

Both streams of output come as they are written, without Docker's own frames, in binary messages
(in text for clients before API 1.28); each message of the client's is input. Its close frame is the
end of the input; the end of the output is answered with ours.
"""

from __future__ import annotations

import asyncio
import codecs
import socket
from typing import TYPE_CHECKING

from sampan.api.docker.hijack import Hijack
from sampan.api.http import websocket
from sampan.engine.beside import beside
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.api.docker.context import Context

__all__ = ["WebSocketHijack"]

_CHUNK = 32 * 1024


class WebSocketHijack(Hijack):
    """``take`` gives a stream of plain bytes."""

    def __init__(self, context: Context) -> None:
        """Raises InvalidArgument for a request that does not ask for a WebSocket."""
        super().__init__(context)
        request = context.request
        if request.upgrade != "websocket":
            raise InvalidArgument("attach/ws: the request must ask for an upgrade to websocket")
        self._headers = websocket.accept(request.headers)
        self._text = context.version < (1, 28)

    async def take(self, media_type: str) -> int:
        request = self._context.request
        client, rest = await request.connection.take_over(request, "websocket", "", self._headers)
        ours, theirs = socket.socketpair()
        theirs.setblocking(True)
        pump = _Pump(client, ours, self._text)
        self._pump = asyncio.get_running_loop().create_task(pump.run(rest))
        return theirs.detach()


class _Pump:
    def __init__(self, client: socket.socket, monitor: socket.socket, text: bool) -> None:
        self._client = client
        self._monitor = monitor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if text else None
        self._sending = asyncio.Lock()
        self._is_closed = False

    async def run(self, first: bytes) -> None:
        for sock in (self._client, self._monitor):
            sock.setblocking(False)
        with self._client, self._monitor:
            try:
                async with beside(self._upward(first)):
                    await self._downward()
            except OSError:
                return  # The client is gone; the monitor sees our end close.

    async def _send(self, data: bytes) -> None:
        """A whole frame: pongs and output come from two sides."""
        async with self._sending:
            await asyncio.get_running_loop().sock_sendall(self._client, data)

    async def _close(self, code: int) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._send(websocket.close(code))

    async def _downward(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._monitor, _CHUNK):
            if self._is_closed:
                continue  # Read so that the container is not held up by who has gone.
            if self._decoder is None:
                await self._send(websocket.frame(websocket.BINARY, data))
            elif text := self._decoder.decode(data):
                await self._send(websocket.frame(websocket.TEXT, text.encode()))
        await self._close(websocket.NORMAL)

    async def _upward(self, first: bytes) -> None:
        loop = asyncio.get_running_loop()
        reader = websocket.Reader()
        data = first
        try:
            while True:
                for opcode, payload in reader.feed(data):
                    if opcode == websocket.PING:
                        await self._send(websocket.frame(websocket.PONG, payload))
                    elif opcode == websocket.CLOSE:
                        await self._close(websocket.NORMAL)
                        self._monitor.shutdown(socket.SHUT_WR)
                        return
                    elif opcode != websocket.PONG:
                        await loop.sock_sendall(self._monitor, payload)
                data = await loop.sock_recv(self._client, _CHUNK)
                if not data:
                    self._monitor.shutdown(socket.SHUT_RDWR)
                    return
        except websocket.ViolationError as error:
            await self._close(error.code)
            self._monitor.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # One side is gone; the other direction sees it too.
