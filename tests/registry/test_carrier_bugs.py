"""A carrier with a bug: who asked hears of it."""

from __future__ import annotations

import asyncio
import io
import struct
from pathlib import Path

from sampan.registry.carrier import messages
from sampan.registry.carrier.server import Carrier
from sampan.registry.policy import Policy
from sampan.registry.types import Credentials


class Said(io.BytesIO):
    """What a carrier wrote."""

    def failed(self) -> messages.Failed:
        (length,) = struct.unpack_from(">I", self.getvalue())
        event = messages.decode_event(self.getvalue()[4 : 4 + length])
        assert isinstance(event, messages.Failed)
        return event


class Broken(Carrier):
    async def _answer(self, request: messages.Request) -> messages.Event:
        raise ZeroDivisionError("its bug")


def test_a_bug_is_told_and_reported(tmp_path: Path) -> None:
    reports: list[object] = []

    async def main() -> messages.Failed:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))
        reader, said = asyncio.StreamReader(), Said()
        where = messages.Where("x", "y", Credentials(), Policy())
        reader.feed_data(messages.encode(messages.Check(number=7, where=where)))
        serving = asyncio.create_task(Broken(reader, said, str(tmp_path)).serve())  # type: ignore[arg-type]
        while not said.getvalue():
            await asyncio.sleep(0)
        reader.feed_eof()
        await serving
        return said.failed()

    failed = asyncio.run(main())
    assert failed.number == 7 and "its bug" in failed.message
    assert [type(report) for report in reports] == [ZeroDivisionError]
