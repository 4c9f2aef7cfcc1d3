"""Copies from and to containers: what is opened for one is let go, whatever comes in between."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sampan.engine.archive import Archives, _Root
from tests.engine.test_changes_meanwhile import container


def test_a_root_for_which_no_descriptor_is_left_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[bool] = []
    live = container("exited")

    async def opened(_: object) -> _Root:
        return _Root(-1, lambda: released.append(True))

    def none_left() -> None:
        raise OSError(24, "Too many open files")

    class Known:
        def find(self, _: str) -> object:
            return live

        def __contains__(self, identifier: str) -> bool:
            return identifier == live.id

    async def main() -> None:
        archives = Archives(cast("Any", SimpleNamespace(registry=Known())))
        archives._open = opened  # type: ignore[assignment,method-assign]
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socketpair", none_left)
            with pytest.raises(OSError, match="Too many open files"):
                await archives.stat("c", "/")
        assert released == [True]

    asyncio.run(main())
