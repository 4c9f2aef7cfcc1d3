"""What was looked at, waited for and then acted upon: somebody else came in between."""

from __future__ import annotations

import asyncio
import os
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.container import ContainerRecord, State
from sampan.engine.execs import Execs
from sampan.engine.images import Images
from sampan.engine.lifecycle import Lifecycle
from sampan.engine.live import Attachment, Exec, Live
from sampan.errors import Conflict


def container(status: str) -> Live:
    return Live(
        ContainerRecord(
            id="c" * 64,
            name="c",
            created=1,
            image_id="",
            image_name="",
            driver="",
            config=ContainerConfig(),
            host_config=HostConfig(),
            args=(),
            state=State(status=status),
        )
    )


def test_a_name_that_moves_while_it_is_looked_up_is_looked_up_again() -> None:
    tags = {"app": SimpleNamespace(id="old", system=False)}
    looked, go_on = threading.Event(), threading.Event()

    def resolve(name: str) -> Any:
        found = tags[name]
        looked.set()
        assert go_on.wait(30)
        return found

    async def main() -> None:
        images = Images(cast("Any", SimpleNamespace(image_store=SimpleNamespace(resolve=resolve))))
        slow = asyncio.ensure_future(images.resolve("app"))
        await asyncio.to_thread(looked.wait)
        await images._change(lambda: tags.update(app=SimpleNamespace(id="new", system=False)))
        go_on.set()
        assert (await slow).id == "old"
        assert (await images.resolve("app")).id == "new"

    asyncio.run(main())


def test_of_two_who_start_one_exec_the_second_does_not_touch_the_first() -> None:
    asked: list[str] = []
    live = container("running")

    async def call(op: str, fds: tuple[int, ...], **fields: Any) -> dict[str, Any]:
        asked.append(op)
        await asyncio.sleep(0)
        return {"pid": 77}

    async def main() -> None:
        monitor = SimpleNamespace(call=call)
        containers = SimpleNamespace(running=lambda _: (live, monitor))
        execs = Execs(cast("Any", SimpleNamespace(containers=containers)))
        execs._process = lambda *_: SimpleNamespace(to_json=dict)  # type: ignore[assignment,method-assign]
        request = Exec(id="e", container_id=live.id, args=("true",))
        ours, theirs = os.pipe()
        stream = Attachment(fd=ours, stdin=False, stdout=True, stderr=True, multiplex=True)
        first = asyncio.ensure_future(execs.start(request, None))
        second = asyncio.ensure_future(execs.start(request, stream))
        await first
        with pytest.raises(Conflict, match="exec command e is already running"):
            await second
        assert (asked, request.running, request.exit_code, request.pid) == (
            ["exec"],
            True,
            None,
            77,
        )
        assert stream.fd == -1
        os.close(theirs)

    asyncio.run(main())


def test_a_removal_that_is_refused_leaves_a_planned_start() -> None:
    """``rm`` without force came while the start waited for its turn."""
    tried: list[Live] = []

    async def main() -> None:
        live = container("restarting")
        lifecycle = Lifecycle(cast("Any", None))

        async def try_(one: Live) -> None:
            tried.append(one)

        lifecycle._try = try_  # type: ignore[assignment,method-assign]
        async with live.lock:
            start = asyncio.ensure_future(lifecycle.start_again(live))
            await asyncio.sleep(0)
            live.removing = True
        await start
        assert tried == [live]

    asyncio.run(main())
