"""Making a container: from a checked request to a row.

The order makes an interruption harmless: directories first, the row last. What has no row was
never promised to anybody, and is swept at the next start (``sampan.engine.recovery``).
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import msgspec

from sampan.engine import merge, names, restarts, spec
from sampan.engine.container import ContainerRecord, UserMount, now
from sampan.engine.control import read_signal
from sampan.engine.files import write_files
from sampan.engine.live import Live
from sampan.engine.log import log
from sampan.engine.mounts import read_mounts
from sampan.errors import InvalidArgument, SampanError
from sampan.oci import platform as platforms
from sampan.runtime.spec import validate

if TYPE_CHECKING:
    from sampan.engine.config import CreateRequest
    from sampan.engine.core import Engine
    from sampan.image.types import Image

__all__ = ["Creation"]

NO_NETWORK = (
    "this version gives containers no network of their own: {name} is isolated as with "
    "--network none; use --network host for the machine's network"
)


class Creation:
    """Creates and renames containers of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create(self, request: CreateRequest, name: str = "") -> tuple[str, list[str]]:
        """The new container's ID, and warnings.

        Raises NotFound (the image), Conflict (the name), InvalidArgument, NotSupported.
        """
        engine = self._engine
        if name:
            name = names.check_name(name)
            engine.registry.check_free(name)
        if not request.config.image:
            raise InvalidArgument("no image specified: give its name or ID as Image")
        image = await engine.images.resolve(request.config.image)
        if not name:
            name = names.random_name(engine.registry.names)
        record = self._record(request, image, name)
        live = Live(record)
        warnings = [*self._check(live), *self._warnings(record, image)]
        self._make(live, image)
        engine.publish(live.record, "create")
        return live.id, warnings

    def _record(self, request: CreateRequest, image: Image, name: str) -> ContainerRecord:
        host = self._engine.settings.defaults.applied(request.host_config)
        if request.config.network_disabled:
            host = msgspec.structs.replace(host, network_mode="none")
        config = merge.merge(request.config, image.config)
        record = ContainerRecord(
            id=os.urandom(32).hex(),
            name=name,
            created=now(),
            image_id=image.id,
            image_name=request.config.image,
            driver=self._engine.driver.name,
            config=config,
            host_config=host,
            args=merge.command(config),
            mounts=tuple(read_mounts(config, host)),
        )
        if not record.config.hostname:
            hostname = spec.hostname(record, self._engine.machine)
            config = msgspec.structs.replace(config, hostname=hostname)
            if host.uts_mode != "host":
                record = msgspec.structs.replace(record, config=config)
        return record

    def _check(self, live: Live) -> tuple[str, ...]:
        """Everything that can be known to be wrong before anything is made; the warnings."""
        record = live.record
        host = record.host_config
        spec.check_modes(host)
        restarts.check_policy(host.restart_policy, auto_remove=host.auto_remove)
        if host.shm_size < 0:
            raise InvalidArgument(f"HostConfig.ShmSize {host.shm_size} is less than 0")
        self._engine.hierarchy.group(self._engine.cgroup_of(record))
        if record.config.stop_signal:
            read_signal(record.config.stop_signal)
        self._engine.log_options(record)
        joined = restarts.joined(host)
        for reference in joined:
            self._engine.registry.find(reference)
        if joined:
            return ()
        built = self._engine.containers.spec_of(live)
        # The volumes' places are not known yet: it is built again with them.
        if record.mounts:
            live.spec = None
        return validate(built, self._engine.settings.mount_point)

    def _warnings(self, record: ContainerRecord, image: Image) -> list[str]:
        warnings = []
        if record.host_config.network_mode in ("", "default", "bridge"):
            warnings.append(NO_NETWORK.format(name=record.name))
        health = image.config.healthcheck
        if health is not None and health.test and record.config.healthcheck is None:
            warnings.append("the image's health check is not run: this version has none")
        own, wanted = platforms.machine().architecture, image.document.architecture
        if wanted != own:
            warnings.append(
                f"The requested image's platform ({image.document.os}/{wanted}) does not match "
                f"the detected host platform (linux/{own}) and no specific platform was requested"
            )
        return warnings

    def _make(self, live: Live, image: Image) -> None:
        engine, record = self._engine, live.record
        directory = engine.directory(record.id)
        made: list[str] = []
        try:
            mounts = []
            for mount in record.mounts:
                mounts.append(self._volume(mount, made) if mount.type == "volume" else mount)
            if mounts:
                record = msgspec.structs.replace(record, mounts=tuple(mounts))
                live.record = record
            os.mkdir(directory, 0o710)
            resolved = engine.settings.defaults.resolved(record.host_config)
            write_files(directory, resolved, spec.hostname(record, engine.machine))
            engine.driver.create_container(record.id, image.chain, image.system)
            engine.registry.add(live)
            try:
                engine.store.add(record)
            except BaseException:
                engine.registry.remove(live)
                raise
        except BaseException:
            engine.driver.remove_container(record.id)
            shutil.rmtree(directory, ignore_errors=True)
            for name in made:
                engine.volumes.remove(name)
            raise

    def _volume(self, mount: UserMount, made: list[str]) -> UserMount:
        """The mount with its volume's directory; the volume is made when it is new."""
        volumes = self._engine.volumes
        known = mount.name and mount.name in {volume.name for volume in volumes.list()}
        volume = volumes.create(mount.name or None)
        if not known:
            made.append(volume.name)
        return msgspec.structs.replace(mount, name=volume.name, source=volume.path)

    def drop_anonymous(self, record: ContainerRecord) -> None:
        """Remove the volumes that were made for this container and have no name."""
        for mount in record.mounts:
            if mount.anonymous and not self._used(mount.name):
                try:
                    self._engine.volumes.remove(mount.name)
                except SampanError as error:
                    log.warn("an anonymous volume stays", volume=mount.name, error=error.message)

    def _used(self, volume: str) -> bool:
        return any(
            mount.type == "volume" and mount.name == volume
            for live in self._engine.registry
            for mount in live.record.mounts
        )

    def rename(self, reference: str, name: str) -> None:
        """Raises NotFound, Conflict, InvalidArgument."""
        engine = self._engine
        live = engine.registry.find(reference)
        name = names.check_name(name) if name else ""
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        if name == live.record.name:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        engine.registry.check_free(name)
        record = msgspec.structs.replace(live.record, name=name)
        engine.store.put(record)
        old = live.record.name
        engine.registry.rename(live, record)
        engine.publish(record, "rename", oldName=f"/{old}")
