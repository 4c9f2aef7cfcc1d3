"""The engine: what the daemon's doors call, and where its parts find each other.

Calls return when the change is committed. Blocking work that may take long (archives, images,
cgroups that will not empty) goes to threads here; what takes microseconds (a row, a directory)
does not, because a change of threads costs more.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

from sampan.engine import log_drivers, recovery
from sampan.engine.archive import Archives
from sampan.engine.control import Control
from sampan.engine.creation import Creation
from sampan.engine.events import Events
from sampan.engine.execs import Execs
from sampan.engine.health import Checks
from sampan.engine.identity import identity
from sampan.engine.images import Images
from sampan.engine.lifecycle import Lifecycle
from sampan.engine.live import Registry
from sampan.engine.log import log
from sampan.engine.networks import Networking
from sampan.engine.restarts import Restarts
from sampan.engine.settings import Settings
from sampan.engine.spec import SHM, SHM_SIZE
from sampan.engine.store import ContainerStore
from sampan.engine.transfers import Transfers
from sampan.engine.volumes import Volumes
from sampan.engine.zygote import ZygoteKeeper
from sampan.errors import Conflict, SampanError
from sampan.image.store import ImageStore
from sampan.kernel import cgroups, mounts
from sampan.storage.drivers.removal import remove_tree
from sampan.storage.unpacking.client import Unpackers
from sampan.volume.store import VolumeStore

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sampan.engine.container import ContainerRecord
    from sampan.engine.live import Live
    from sampan.engine.log_drivers import Place
    from sampan.runtime.supervisor.client import Zygote

__all__ = ["Engine", "Settings"]

TRASH_DELAY = 0.5
"""Seconds from a removal to the deletion of its bytes."""


class Engine:
    """Opened once per data root; the caller holds the lock on it."""

    def __init__(self, settings: Settings, zygote: Zygote) -> None:
        self.settings = settings
        self.zygote = ZygoteKeeper(zygote)
        self.machine = os.uname().nodename
        self.hierarchy = cgroups.detect()
        for directory in (
            settings.data_root,
            settings.containers,
            settings.trash,
            settings.run_dirs,
            settings.mount_point,
        ):
            os.makedirs(directory, mode=0o711, exist_ok=True)
        self.unpackers = Unpackers()
        self.image_store = ImageStore(settings.data_root, settings.storage_driver, self.unpackers)
        self.database = self.image_store.database
        self.driver = self.image_store.driver
        self.volume_store = VolumeStore(settings.data_root, self.database)
        self.store = ContainerStore(self.database)
        self._identity = ""
        self.registry = Registry()
        self.events = Events(f"{settings.data_root}/events")
        self.containers = Lifecycle(self)
        self.control = Control(self)
        self.restarts = Restarts(self)
        self.checks = Checks(self)
        self.creation = Creation(self)
        self.volumes = Volumes(self)
        self.archives = Archives(self)
        self.execs = Execs(self)
        self.images = Images(self)
        self.transfers = Transfers(self)
        self.networking = Networking(self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._emptying = False
        self.pruning = False

    async def start(self) -> None:
        """Take up what is there: running containers, and what an earlier daemon left half-done."""
        self.zygote.watch()
        await recovery.recover(self)
        self.spawn_task(asyncio.to_thread(self.collect))

    async def stop(self) -> None:
        """Let go; containers live on with their monitors."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for live in self.registry:
            live.drop_parked()
            if live.monitor is not None:
                live.monitor.close()
        await self.transfers.close()
        await self.networking.close()
        self.zygote.close()
        # With containers in it the parent of their groups stays, for them and the next daemon.
        self.hierarchy.group(self.settings.cgroup_parent).prune()
        self.volume_store.close()
        self.image_store.close()
        self.unpackers.close()
        self.events.close()

    def spawn_task(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run in the background; an error is logged, since nobody waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", error=repr(error))

    @property
    def identity(self) -> str:
        """A UUID, made with the data root and kept in it."""
        if not self._identity:
            self._identity = identity(self.settings.data_root)
        return self._identity

    @property
    def founded(self) -> int:
        """When its data root was made, in nanoseconds since the epoch."""
        self.identity  # noqa: B018 - which it is made with
        return os.stat(f"{self.settings.data_root}/engine-id").st_mtime_ns

    # -- where a container's things are --------------------------------------------------------

    def directory(self, container_id: str) -> str:
        return f"{self.settings.containers}/{container_id}"

    def names_directory(self, record: ContainerRecord) -> str:
        """Where a container's hosts, hostname and resolv.conf are: with whom it has its network
        from, who may have it from another, as long as that is there."""
        while True:
            kind, _, donor = record.host_config.network_mode.partition(":")
            if kind != "container" or donor not in self.registry:
                return self.directory(record.id)
            record = self.registry.find(donor).record

    def run_dir(self, container_id: str) -> str:
        return f"{self.settings.run_dirs}/{container_id}"

    def log_place(self, record: ContainerRecord) -> Place | None:
        """Where a container's log can be read; None: nowhere."""
        return log_drivers.log_place(record, self.directory(record.id))

    def cgroup_of(self, record: ContainerRecord) -> str:
        parent = record.host_config.cgroup_parent or self.settings.cgroup_parent
        return f"{parent if parent.startswith('/') else '/' + parent}/{record.id}"

    def log_options(self, record: ContainerRecord) -> dict[str, object]:
        """The monitor's log. Raises InvalidArgument."""
        return log_drivers.monitor_options(record, self.directory(record.id))

    def provide_shm(self, record: ContainerRecord) -> None:
        """Mount the /dev/shm that other containers may join, until this one ends."""
        if record.host_config.ipc_mode != "shareable":
            return
        place = f"{self.directory(record.id)}/{SHM}"
        os.makedirs(place, exist_ok=True)
        if not os.path.ismount(place):
            flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
            size = record.host_config.shm_size or SHM_SIZE
            mounts.mount("shm", place, "tmpfs", flags, f"mode=1777,size={size}")

    def release_shm(self, record: ContainerRecord) -> None:
        """Containers that joined it keep their own mount of it."""
        if record.host_config.ipc_mode != "shareable":
            return
        place = f"{self.directory(record.id)}/{SHM}"
        if os.path.ismount(place):
            mounts.umount(place, mounts.MNT_DETACH)

    # -- changes that are one piece ------------------------------------------------------------

    def publish(self, record: ContainerRecord, action: str, **attributes: str) -> None:
        """A container event, with its image, name and labels."""
        self.publish_marked(record, action, 0, attributes)

    def publish_marked(
        self, record: ContainerRecord, action: str, mark: int, attributes: dict[str, str]
    ) -> None:
        """The same, with a mark by which it is found again (``EventLog.marks``)."""
        about = {"image": record.image_name, "name": record.name}
        given = {**(record.config.labels or {}), **about, **attributes}
        self.events.publish("container", action, record.id, given, mark)

    async def kill_group(self, container_id: str, cgroup: str) -> None:
        """Kill what is in a container's cgroup, and remove the group."""
        group = self.hierarchy.group(cgroup)

        def work() -> None:
            group.kill()
            group.destroy()

        try:
            await asyncio.to_thread(work)
        except SampanError as error:
            log.error("cannot remove a cgroup", container=container_id, error=error.message)

    def clear_run_dir(self, container_id: str) -> None:
        """Remove what a container's life left below the exec root."""
        path = self.run_dir(container_id)
        while True:
            try:
                for name in os.listdir(path):
                    os.unlink(f"{path}/{name}")
                os.rmdir(path)
            except FileNotFoundError:
                if not os.path.isdir(path):
                    return  # else its monitor, which ends, removed a file of its own
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                # A monitor that ends has left its last word there just now.
            else:
                return

    def forget(self, live: Live, *, volumes: bool = True) -> None:
        """Remove a container that does not run: its row first, then its files.

        From the commit on it is gone: files that a crash leaves have no row, and are swept.
        """
        record = live.record
        orphans = self.volumes.orphans(record) if volumes else []

        def drop_rows() -> None:
            self.store.remove(record.id)
            self.volume_store.drop_rows(volume.name for volume in orphans)

        self.database.release(drop_rows)
        self.registry.remove(live)
        self.archives.cut_off(record.id)
        live.drop_parked()
        self.execs.drop(live)
        self.driver.remove_container(record.id)
        self.bury(record.id)
        self.volumes.bury(orphans)
        self.publish(record, "destroy")
        live.settle_starts()
        live.settle_ends()
        live.settle_removals()

    def bury(self, container_id: str) -> None:
        """Take a container's directory away: by a rename now, and for good a little later."""
        try:
            os.rename(self.directory(container_id), f"{self.settings.trash}/{container_id}")
        except FileNotFoundError:
            log.warn("a container had no directory", container=container_id)
        if not self._emptying:
            self._emptying = True
            self.spawn_task(self._empty_later())

    async def _empty_later(self) -> None:
        """Not at once: whoever removes one container is about to make or remove another."""
        await asyncio.sleep(TRASH_DELAY)
        self._emptying = False
        await asyncio.to_thread(self._empty_trash)

    def _empty_trash(self) -> None:
        trash = os.open(self.settings.trash, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(trash):
                try:
                    remove_tree(trash, name)
                except (SampanError, OSError) as error:
                    # It stays in the trash, which is emptied again after the next removal.
                    log.warn("cannot delete a removed container's files", error=str(error))
        finally:
            os.close(trash)

    def collect(self) -> None:
        """Delete what was renamed away, by an earlier daemon too. Blocks."""
        self._empty_trash()
        self.driver.collect()
        self.volume_store.collect()

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove a container. Raises Conflict when it runs and ``force`` is not given."""
        live = self.registry.find(reference)
        if live.removing:
            raise Conflict(f"removal of container {reference} is already in progress")
        live.removing = True
        try:
            await self._remove(live, force, volumes)
        finally:
            live.removing = False

    async def _remove(self, live: Live, force: bool, volumes: bool) -> None:
        if live.record.state.up and force:
            try:
                await self.control.kill(live.id, "SIGKILL")
            except Conflict:
                log.debug("a container ended before it was killed", container=live.id)
        async with live.lock:
            if live.id not in self.registry:
                return  # --rm was faster
            state = live.record.state
            if state.up:
                if force:
                    raise Conflict(
                        f'cannot remove container "/{live.record.name}": it does not die: a '
                        "process of it hangs in the kernel"
                    )
                if state.status == "paused":
                    raise Conflict(
                        f'cannot remove container "/{live.record.name}": container is paused and '
                        "must be unpaused first"
                    )
                raise Conflict(
                    f'cannot remove container "/{live.record.name}": container is '
                    f"{state.status}: stop the container before removing or force remove"
                )
            self.forget(live, volumes=volumes)
