"""Volumes for the daemon's doors and for containers: made, used, counted and removed in order.

A volume is used by the containers whose records mount it, running or not; that is looked up, never
counted. What changes a volume holds a lock of its name, so that nothing is removed between being
found and being used. A file system that a volume's options name is mounted as long as somebody
*holds* the volume: containers that run, and whoever looks into one that does not.

    create of a container     directories of new volumes are made, and filled from the image
                              died here: directories without rows, swept when the store is opened
                              rows of volumes and container are committed together
    start                     held: mounted                      died here: ``settle`` unmounts
    end                       let go: unmounted with the last
    remove                    the row, then the directory
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from errno import ELOOP, ENOENT, ENOTDIR
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from sampan.engine.log import log
from sampan.errors import Conflict, InvalidArgument, KernelError, NotFound, SampanError
from sampan.kernel.paths import O_PATH, open_in_root

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from sampan.engine.container import ContainerRecord, UserMount
    from sampan.engine.core import Engine
    from sampan.engine.mounts import Wanted
    from sampan.volume.store import Volume

__all__ = ["Claim", "Pruned", "Volumes"]


class Pruned(NamedTuple):
    """Names of volumes, and the bytes that were in them."""

    names: list[str]
    reclaimed: int


class Claim:
    """What a container that is being made has of volumes: its mounts, resolved, the volumes that
    are new with it, and those to be filled from its image."""

    def __init__(self, mounts: tuple[UserMount, ...]) -> None:
        self.mounts = mounts
        self.new: list[Volume] = []
        self.fill: list[tuple[Volume, str, bool]] = []


class Volumes:
    """The volume store's asynchronous face, with what only an engine knows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locks: dict[str, asyncio.Lock] = {}
        self._askers: Counter[str] = Counter()
        self._holders: dict[str, set[str]] = {}
        self._pruning = False

    # -- order -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(name, asyncio.Lock())
        # A lock that was released and is not yet taken by who waits for it says that it is free.
        self._askers[name] += 1
        try:
            async with lock:
                yield
        finally:
            self._askers[name] -= 1
            if not self._askers[name]:
                del self._askers[name], self._locks[name]

    def users(self, name: str) -> list[str]:
        """IDs of the containers that mount a volume, and of those that hold it."""
        found = [
            live.id
            for live in self._engine.registry
            if any(mount.type == "volume" and mount.name == name for mount in live.record.mounts)
        ]
        return [*found, *(self._holders.get(name, set()) - set(found))]

    # -- the API's operations --------------------------------------------------------------------

    async def create(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """A new volume, or the one of that name. InvalidArgument, NotFound (driver), Conflict."""
        async with self._locked(name):
            volume, new = self._engine.volume_store.create(name or None, labels, driver, options)
            if new:
                self._publish("create", volume)
        return volume

    def get(self, name: str) -> Volume:
        """NotFound."""
        return self._engine.volume_store.get(name)

    def select(self, filters: Mapping[str, Sequence[str]]) -> list[Volume]:
        """Volumes by the filters of the list. InvalidArgument."""
        tests = [self._test(name, values) for name, values in filters.items()]
        volumes = self._engine.volume_store.list()
        return [volume for volume in volumes if all(test(volume) for test in tests)]

    def _test(self, name: str, values: Sequence[str]) -> Callable[[Volume], bool]:
        if name == "name":
            return lambda volume: any(_matches(value, volume.name) for value in values)
        if name == "driver":
            return lambda volume: volume.driver in values
        if name == "label":
            return lambda volume: all(_labelled(volume, value) for value in values)
        if name == "dangling":
            wanted = _boolean(name, values)
            return lambda volume: wanted != bool(self.users(volume.name))
        raise InvalidArgument(f"invalid filter '{name}'")

    async def remove(self, name: str, *, force: bool = False) -> None:
        """NotFound unless ``force``; Conflict names the containers that use it."""
        store = self._engine.volume_store
        async with self._locked(name):
            try:
                volume = store.get(name)
            except NotFound:
                if force:
                    return
                raise
            users = self.users(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            store.remove(name)
            self._publish("destroy", volume)

    async def prune(self, filters: Mapping[str, Sequence[str]], *, named: bool) -> Pruned:
        """Remove what no container uses: the anonymous ones, and with ``named`` the others too.

        InvalidArgument (a filter), Conflict: another prune is under way.
        """
        tests: list[Callable[[Volume], bool]] = []
        for name, values in filters.items():
            if name == "all":
                named = _boolean(name, values)
            elif name == "label":
                tests.append(self._test(name, values))
            elif name == "label!":
                tests.append(_without(values))
            else:
                raise InvalidArgument(f"invalid filter '{name}'")
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            pruned, reclaimed = [], 0
            for volume in self._engine.volume_store.list():
                if (volume.anonymous or named) and all(test(volume) for test in tests):
                    size = await self._prune(volume)
                    if size is not None:
                        pruned.append(volume.name)
                        reclaimed += size
        finally:
            self._pruning = False
        self._engine.events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return Pruned(pruned, reclaimed)

    async def _prune(self, volume: Volume) -> int | None:
        """Remove one if nobody uses it; the bytes that were in it."""
        store = self._engine.volume_store
        async with self._locked(volume.name):
            if self.users(volume.name):
                return None
            size = 0 if volume.options else await asyncio.to_thread(store.size, volume)
            try:
                store.remove(volume.name)
            except NotFound:
                return None
            self._publish("destroy", volume)
        return size

    async def size(self, volume: Volume) -> int:
        """Bytes in it; -1: what its options mount is not ours to measure."""
        if volume.options:
            return -1
        return await asyncio.to_thread(self._engine.volume_store.size, volume)

    # -- for a container that is made ------------------------------------------------------------

    @asynccontextmanager
    async def claimed(self, wanted: Sequence[Wanted]) -> AsyncIterator[Claim]:
        """Volumes for a new container, locked: new ones are given up unless the block ends well,
        after ``commit``. InvalidArgument, NotFound (driver), Conflict (options)."""
        store = self._engine.volume_store
        claim = Claim(tuple(one.mount for one in wanted))
        names = {one.mount.name for one in wanted if one.mount.type == "volume"} - {""}
        async with AsyncExitStack() as stack:
            for name in sorted(names):
                await stack.enter_async_context(self._locked(name))
            try:
                mounts = []
                for one in wanted:
                    mounts.append(self._claim(claim, one))
                claim.mounts = tuple(mounts)
                yield claim
            except BaseException:
                for volume in claim.new:
                    store.abandon(volume)
                raise
            for volume in claim.new:
                self._publish("create", volume)

    def _claim(self, claim: Claim, wanted: Wanted) -> UserMount:
        """The mount with its volume's name and place."""
        mount, wish = wanted.mount, wanted.volume
        if mount.type != "volume":
            return mount
        store = self._engine.volume_store
        if wish is None:
            volume = store.get(mount.name)
        else:
            known = next((one for one in claim.new if one.name == wish.name), None)
            volume, new = (
                (known, False)
                if known is not None
                else store.prepare(
                    wish.name or None, driver=wish.driver, options=wish.options, labels=wish.labels
                )
            )
            if new:
                claim.new.append(volume)
            if wish.copy and (new or volume.options or not os.listdir(volume.path)):
                claim.fill.append((volume, mount.destination, wanted.declared))
        return msgspec.structs.replace(
            mount, name=volume.name, source=volume.path, driver=volume.driver
        )

    async def fill(self, claim: Claim, record: ContainerRecord) -> None:
        """Copy into empty volumes what the image has at their places.

        One whose options mount something is mounted for it, but only if there is anything to copy:
        a server of files that is away is a start's trouble, not a creation's.
        """
        if any(volume.options for volume, _, _ in claim.fill):
            claim.fill = await asyncio.to_thread(self._to_fill, claim, record.id)
        held = [volume for volume, _, _ in claim.fill if volume.options]
        try:
            for volume in held:
                await self._hold(volume, record.id)
            await asyncio.to_thread(self._fill, claim, record.id)
        finally:
            for volume in held:
                self._let_go(volume.name, record.id)

    def _to_fill(self, claim: Claim, container_id: str) -> list[tuple[Volume, str, bool]]:
        """Those for which the image has something."""
        found = []
        with self._view(container_id) as view:
            for one in claim.fill:
                source = _open_content(view, one[1], one[2])
                if source >= 0:
                    os.close(source)
                    found.append(one)
        return found

    def _fill(self, claim: Claim, container_id: str) -> None:
        with self._view(container_id) as view:
            for volume, place, declared in claim.fill:
                source = _open_content(view, place, declared)
                if source >= 0:
                    try:
                        self._engine.volume_store.fill(volume, source)
                    finally:
                        os.close(source)

    @contextmanager
    def _view(self, container_id: str) -> Iterator[int]:
        """A new container's root, as it is before anything of its own is in it."""
        from sampan.runtime.view import open_view

        engine = self._engine
        recipe = engine.driver.mounts(container_id)
        view = open_view(recipe, (), engine.settings.mount_point, readonly=True)
        try:
            yield view
        finally:
            os.close(view)

    # -- for a container that runs ---------------------------------------------------------------

    async def attach(self, record: ContainerRecord) -> None:
        """Have a container's volumes, until ``release``. NotFound, InvalidArgument."""
        for mount in record.mounts:
            if mount.type != "volume":
                continue
            volume = self._engine.volume_store.get(mount.name)
            await self._hold(volume, record.id)
            self._publish(
                "mount",
                volume,
                container=record.id,
                destination=mount.destination,
                propagation=mount.propagation,
                **{"read/write": str(mount.writable).lower()},
            )

    def release(self, record: ContainerRecord) -> None:
        """A container has ended, or did not start."""
        for mount in record.mounts:
            if mount.type == "volume" and self._let_go(mount.name, record.id):
                attributes = {"container": record.id, "driver": mount.driver}
                self._engine.events.publish("volume", "unmount", mount.name, attributes)

    async def hold(self, record: ContainerRecord, holder: str) -> None:
        """Have a container's volumes mounted for somebody else who looks at them."""
        for mount in record.mounts:
            if mount.type == "volume":
                await self._hold(self._engine.volume_store.get(mount.name), holder)

    def let_go(self, record: ContainerRecord, holder: str) -> None:
        for mount in record.mounts:
            if mount.type == "volume":
                self._let_go(mount.name, holder)

    async def _hold(self, volume: Volume, holder: str) -> None:
        self._holders.setdefault(volume.name, set()).add(holder)
        try:
            if volume.options:
                async with self._locked(f"{volume.name}/mount"):
                    await asyncio.to_thread(self._engine.volume_store.open, volume)
            else:
                self._engine.volume_store.open(volume)
        except BaseException:
            self._let_go(volume.name, holder)
            raise

    def _let_go(self, name: str, holder: str) -> bool:
        """Whether the holder had it. The last one's mount goes."""
        holders = self._holders.get(name, set())
        if holder not in holders:
            return False
        holders.remove(holder)
        if not holders:
            del self._holders[name]
            try:
                self._engine.volume_store.shut(name)
            except SampanError as error:
                log.error("a volume stays mounted", volume=name, error=error.message)
        return True

    def settle(self) -> None:
        """After a start: containers that run, or are about to, hold their volumes; what else is
        mounted goes."""
        for live in self._engine.registry:
            if live.record.state.running or live.monitor is not None:
                for mount in live.record.mounts:
                    if mount.type == "volume":
                        self._holders.setdefault(mount.name, set()).add(live.id)
        for volume in self._engine.volume_store.list():
            if volume.options and volume.name not in self._holders:
                self._engine.volume_store.shut(volume.name)

    def orphans(self, record: ContainerRecord) -> list[Volume]:
        """The volumes that were made for a container, have no name, and nobody else uses: their
        rows go with its own."""
        found = []
        for mount in record.mounts:
            if not mount.anonymous or mount.name in self._locks:
                continue
            if set(self.users(mount.name)) - {record.id}:
                continue
            try:
                found.append(self._engine.volume_store.get(mount.name))
            except NotFound:
                log.warn("an anonymous volume is gone already", volume=mount.name)
        return found

    def bury(self, orphans: Sequence[Volume]) -> None:
        """What is in volumes whose rows are gone."""
        for volume in orphans:
            try:
                self._engine.volume_store.discard(volume.name)
            except SampanError as error:
                log.warn("a volume's files stay", volume=volume.name, error=error.message)
            self._publish("destroy", volume)

    def _publish(self, action: str, volume: Volume, **attributes: str) -> None:
        given = {"driver": volume.driver, **attributes}
        self._engine.events.publish("volume", action, volume.name, given)


def _open_content(view: int, place: str, declared: bool) -> int:
    """The image's directory at ``place``, readable; -1: it has none there."""
    try:
        return open_in_root(view, place, os.O_RDONLY | os.O_DIRECTORY)
    except KernelError as error:
        if error.errno not in (ENOENT, ENOTDIR, ELOOP):
            raise
    if declared:
        try:
            os.close(open_in_root(view, place, O_PATH))
        except KernelError:
            return -1
        raise InvalidArgument(f"cannot mount volume over existing file, file exists {place}")
    return -1


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return pattern in name


def _labelled(volume: Volume, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in volume.labels and (not equals or volume.labels[key] == value)


def _without(values: Sequence[str]) -> Callable[[Volume], bool]:
    return lambda volume: not any(_labelled(volume, value) for value in values)


def _boolean(name: str, values: Sequence[str]) -> bool:
    wanted = {{"1": True, "true": True, "0": False, "false": False}.get(v.lower()) for v in values}
    if len(wanted) == 1 and None not in wanted:
        return wanted == {True}
    raise InvalidArgument(f"invalid filter '{name}=[{' '.join(values)}]'")
