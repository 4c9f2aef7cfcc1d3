"""One after the other: what is done to a volume of one name."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from sampan.engine.volumes import Volumes


def test_who_comes_as_another_leaves_waits_for_who_waited() -> None:
    """A lock between two holders says that it is free."""
    inside: list[str] = []
    seen: list[list[str]] = []

    async def work(volumes: Volumes, name: str) -> None:
        async with volumes._locked("v"):
            inside.append(name)
            await asyncio.sleep(0)
            seen.append(list(inside))
            inside.remove(name)

    async def main() -> None:
        volumes = Volumes(cast("Any", None))
        first = asyncio.ensure_future(work(volumes, "first"))
        await asyncio.sleep(0)
        tasks = [first, asyncio.ensure_future(work(volumes, "second"))]
        for number in range(20):
            await asyncio.sleep(0)
            tasks.append(asyncio.ensure_future(work(volumes, f"later {number}")))
        await asyncio.gather(*tasks)
        assert not volumes._locks

    asyncio.run(main())
    assert len(seen) == 22 and all(len(names) == 1 for names in seen)
