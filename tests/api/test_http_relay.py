"""A connection that is taken over where its bytes are not its socket's, and ends in that moment."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from sampan.api.http.relay import relay


class Connection(asyncio.Protocol):
    """As HTTP's: knows of its transport's end."""

    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None


def test_a_client_that_goes_while_it_is_taken_over_is_not_waited_for() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_unix_connection(Connection, sock=ours)
        taking = asyncio.ensure_future(relay(cast("Any", connection), transport, b""))
        await asyncio.sleep(0)
        transport.abort()
        with pytest.raises(ConnectionResetError):
            await taking
        theirs.close()

    asyncio.run(main())
