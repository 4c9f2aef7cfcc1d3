"""One after the other: what is done to a volume of one name."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from sampan.engine.volumes import Volumes


def test_who_leaves_and_comes_again_waits_for_who_waited() -> None:
    """A lock between two holders says that it is free."""
    inside: list[str] = []
    seen: list[list[str]] = []

    async def work(volumes: Volumes, name: str) -> None:
        for _ in range(5):
            async with volumes._locked("v"):
                inside.append(name)
                await asyncio.sleep(0)
                seen.append(list(inside))
                inside.remove(name)

    async def main() -> None:
        volumes = Volumes(cast("Any", None))
        await asyncio.gather(*(work(volumes, str(number)) for number in range(4)))
        assert not volumes._locks

    asyncio.run(main())
    assert len(seen) == 20 and all(len(names) == 1 for names in seen)
