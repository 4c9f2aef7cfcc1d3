"""What was looked at, waited for and then acted upon: somebody else came in between."""

from __future__ import annotations

import asyncio
import os
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.container import ContainerRecord, Health, State
from sampan.engine.control import Control
from sampan.engine.execs import Execs
from sampan.engine.freeing import Freeing
from sampan.engine.images import Images
from sampan.engine.lifecycle import Lifecycle
from sampan.engine.live import Attachment, Exec, Live
from sampan.engine.resolving import Resolving
from sampan.errors import Conflict, Unavailable


def container(
    status: str, config: ContainerConfig | None = None, health: Health | None = None
) -> Live:
    return Live(
        ContainerRecord(
            id="c" * 64,
            name="c",
            created=1,
            image_id="",
            image_name="",
            driver="",
            config=config or ContainerConfig(),
            host_config=HostConfig(),
            args=(),
            state=State(status=status, health=health),
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

    async def call(op: str, *_: object, **fields: Any) -> dict[str, Any]:
        asked.append(op)
        await asyncio.sleep(0)
        return {"pid": 77}

    async def main() -> None:
        monitor = SimpleNamespace(call=call)
        containers = SimpleNamespace(running=lambda _: (live, monitor))
        execs = Execs(cast("Any", SimpleNamespace(containers=containers)))
        execs._drafts.process = lambda *_: {}  # type: ignore[method-assign]
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


class Freezer:
    """A monitor that freezes and thaws, each when the others had their turn."""

    def __init__(self, frozen: bool) -> None:
        self.frozen = frozen

    async def call(self, op: str, **fields: Any) -> dict[str, Any]:
        for _ in range(3):
            await asyncio.sleep(0)
        if op == "kill":
            fields["then"]()
        elif (op == "pause") == self.frozen:
            raise Conflict("is paused; resume it first" if self.frozen else "is running")
        else:
            self.frozen = op == "pause"
        return {}


def frozen_world(live: Live, monitor: Freezer) -> Any:
    nothing = SimpleNamespace(cease=lambda _: None, begin=lambda _: None)
    return SimpleNamespace(
        registry=SimpleNamespace(find=lambda _: live),
        containers=SimpleNamespace(running=lambda _: (live, monitor)),
        store=SimpleNamespace(put_state=lambda *_, **__: None),
        checks=nothing,
        publish=lambda *_, **__: None,
    )


def test_two_who_end_a_frozen_container_both_do() -> None:
    async def main() -> None:
        live = container("paused")
        monitor = Freezer(frozen=True)
        control = Control(frozen_world(live, monitor))
        await asyncio.gather(*(control._send(live, cast("Any", monitor), 15, True) for _ in "ab"))
        assert (live.record.state.status, monitor.frozen) == ("running", False)

    asyncio.run(main())


def test_a_pause_that_is_refused_does_not_make_the_commits_freeze_last() -> None:
    """It would outlive the daemon."""

    async def main() -> None:
        live = container("running")
        control = Control(frozen_world(live, Freezer(frozen=False)))
        done = await asyncio.gather(
            control.pause("c", committing=True), control.pause("c"), return_exceptions=True
        )
        assert [type(one) for one in done] == [type(None), Conflict]
        assert (live.record.state.status, live.record.state.committing) == ("paused", True)

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True], ids=["served", "not served"])
def test_names_that_are_late_for_one_start_leave_the_next_alone(fails: bool) -> None:
    class Monitor:
        def __init__(self) -> None:
            self.asked: list[str] = []

        def request(self, op: str) -> asyncio.Future[dict[str, Any]]:
            self.asked.append(op)
            return asyncio.get_running_loop().create_future()

    async def main() -> None:
        live = container("created")
        go_on = asyncio.Event()

        async def serve(_: Live) -> None:
            await go_on.wait()
            if fails:
                raise Unavailable("the container has ended")

        networking = SimpleNamespace(resolving=SimpleNamespace(serve=serve))
        lifecycle = Lifecycle(cast("Any", SimpleNamespace(networking=networking)))
        first, second = Monitor(), Monitor()
        live.monitor = cast("Any", first)
        late = asyncio.ensure_future(lifecycle._start_named(live, cast("Any", first)))
        await asyncio.sleep(0)
        live.monitor = cast("Any", second)
        live.begun = asyncio.get_running_loop().create_future()
        go_on.set()
        await late
        assert (first.asked, second.asked, live.begun.done()) == ([], [], False)
        assert live.monitor is cast("Any", second)

    asyncio.run(main())


def test_who_waits_for_what_is_freed_may_leave() -> None:
    freed: list[str] = []
    go_on = threading.Event()

    def free(gone: list[str]) -> None:
        assert go_on.wait(30)
        freed.extend(gone)

    async def main() -> None:
        ways = SimpleNamespace(on_parent=lambda _: False)
        networks = SimpleNamespace(ways=ways, free=free)
        freeing = Freeing(cast("Any", None), cast("Any", networks))
        freeing.begin("c", cast("Any", ["first", "second"]))
        waiter = asyncio.ensure_future(freeing.settle())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait((waiter,))
        assert waiter.cancelled()
        go_on.set()
        await freeing.settle()
        assert freed == ["first", "second"]

    asyncio.run(main())


def test_a_name_that_goes_while_everything_is_told_is_taken_back() -> None:
    told: list[dict[str, Any]] = []
    asked, go_on = threading.Event(), threading.Event()
    tasks: list[asyncio.Future[None]] = []

    def found(_: Any) -> Any:
        asked.set()
        assert go_on.wait(30)
        return SimpleNamespace(tell=told.append, close=lambda: None), {"pid": 0, "lacking": []}

    async def main() -> None:
        engine = SimpleNamespace(
            registry=(), spawn_task=lambda work: tasks.append(asyncio.ensure_future(work))
        )
        network = SimpleNamespace(predefined=False)
        networks = SimpleNamespace(find=lambda _: network)
        resolving = Resolving(cast("Any", engine), cast("Any", networks))
        resolving._found = found  # type: ignore[assignment,method-assign]
        resolving._watch = lambda _: None  # type: ignore[assignment,method-assign]
        opening = asyncio.ensure_future(resolving._tell({}))
        await asyncio.to_thread(asked.wait)
        resolving.release([cast("Any", SimpleNamespace(id="e", network="n"))])
        go_on.set()
        await opening
        await asyncio.gather(*tasks)
        assert told == [{"op": "forget", "endpoints": ["e"]}]

    asyncio.run(main())
