"""Making a container: from a checked request to a row.

The order makes an interruption harmless: directories first, the row last. What has no row was
never promised to anybody, and is swept at the next start (``sampan.engine.recovery``).
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import msgspec

from sampan.engine import hosts, log_drivers, merge, names, ports, restarts, spec
from sampan.engine import resources as limits
from sampan.engine.assembly import spec_of
from sampan.engine.checking import check_config, check_host, check_joined
from sampan.engine.container import ContainerRecord, now
from sampan.engine.files import write_files
from sampan.engine.live import Live
from sampan.engine.mounts import Reader
from sampan.errors import InvalidArgument, NotFound, NotSupported, SampanError
from sampan.oci import platform as platforms
from sampan.runtime.spec import validate

if TYPE_CHECKING:
    from sampan.engine.config import ContainerConfig, CreateRequest, HostConfig
    from sampan.engine.container import Link, UserMount
    from sampan.engine.core import Engine
    from sampan.engine.mounts import Wanted
    from sampan.engine.volumes import Claim
    from sampan.image.types import Image

__all__ = ["Creation"]


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
        check_joined(request.config, request.host_config)
        if not request.config.image:
            raise InvalidArgument("no image specified: give its name or ID as Image")
        image = await engine.images.resolve(request.config.image)
        if not name:
            name = names.random_name(engine.registry.names)
        config = merge.merge(request.config, image.config)
        wanted = await self._mounts(request, config)
        record = self._record(request, image, name, config)
        record = msgspec.structs.replace(record, mounts=tuple(one.mount for one in wanted))
        live = Live(record)
        warnings = [*self._check(live), *self._warnings(record, image)]
        if ports.published(record):
            warnings += await asyncio.to_thread(engine.networking.warnings, record)
        await self._make(live, image, wanted)
        engine.publish(live.record, "create")
        return live.id, warnings

    async def _mounts(self, request: CreateRequest, config: ContainerConfig) -> list[Wanted]:
        engine = self._engine
        reader = Reader(
            lambda reference: engine.registry.find(reference).record,
            engine.settings.data_root,
            deep=request.deep_read_only,
        )
        wanted = reader.read(config, request.host_config)
        for position, one in enumerate(wanted):
            if one.mount.type == "image" and not one.mount.layers:
                wanted[position] = one._replace(mount=await self._image_mount(one.mount))
        return wanted

    async def _image_mount(self, mount: UserMount) -> UserMount:
        image = await self._engine.images.resolve(mount.name)
        if image.system:
            raise NotSupported(
                f"image {mount.name} cannot be mounted: it is this machine's own directories; "
                "mount them as binds"
            )
        return msgspec.structs.replace(mount, source=image.id, layers=image.chain)

    def _record(
        self, request: CreateRequest, image: Image, name: str, config: ContainerConfig
    ) -> ContainerRecord:
        host = self._engine.settings.defaults.applied(request.host_config)
        host = limits.with_swap(host, accounted=self._engine.hierarchy.limits_swap)
        host = self._by_id(host)
        links: tuple[Link, ...] = ()
        if host.links:
            from sampan.engine.links import resolve

            links = resolve(self._engine, host)
            host = msgspec.structs.replace(host, links=None)
        if request.config.network_disabled:
            host = msgspec.structs.replace(host, network_mode="none")
        if (host.pids_limit or 0) <= 0:
            host = msgspec.structs.replace(host, pids_limit=None)
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
            networks=self._engine.networking.wishes(
                host.network_mode, request.endpoints, config.mac_address
            ),
            links=links,
        )
        if not record.config.hostname and host.uts_mode != "host":
            record = msgspec.structs.replace(record, config=self._named(record))
        return record

    def _named(self, record: ContainerRecord) -> ContainerConfig:
        """The configuration with the name that its machine has inside: in another container's
        network, that one's."""
        engine, config = self._engine, record.config
        kind, _, reference = record.host_config.network_mode.partition(":")
        if kind != "container":
            hostname = spec.hostname(record, engine.machine)
            return msgspec.structs.replace(config, hostname=hostname)
        donor = engine.registry.find(reference).record
        return msgspec.structs.replace(
            config,
            hostname=spec.hostname(donor, engine.machine),
            domainname=config.domainname or donor.config.domainname,
        )

    def _by_id(self, host: HostConfig) -> HostConfig:
        """Containers whose namespaces are joined, by their IDs: names may change."""
        changes = {}
        for field in ("network_mode", "ipc_mode", "pid_mode"):
            kind, _, reference = getattr(host, field).partition(":")
            if kind == "container" and reference:
                try:
                    other = self._engine.registry.find(reference)
                except NotFound as error:
                    # 404 would tell a client that the image is missing.
                    raise InvalidArgument(error.message) from error
                changes[field] = f"container:{other.id}"
        return msgspec.structs.replace(host, **changes) if changes else host

    def _check(self, live: Live) -> tuple[str, ...]:
        """Everything that can be known to be wrong before anything is made; the warnings."""
        record = live.record
        host = record.host_config
        spec.check_modes(host)
        check_config(record.config)
        ports.check_ports(record.config, host)
        check_host(host)
        self._engine.hierarchy.group(self._engine.cgroup_of(record))
        log_drivers.check(host.log_config)
        self._engine.log_options(record)
        if restarts.joined(host):
            return ()
        built = spec_of(self._engine, live)
        # The volumes' places are not known yet: it is built again with them.
        if record.mounts:
            live.spec = None
        return validate(built, self._engine.settings.mount_point)

    def _warnings(self, record: ContainerRecord, image: Image) -> list[str]:
        warnings = ports.warnings(record.host_config)
        own, wanted = platforms.machine().architecture, image.document.architecture
        if wanted != own:
            warnings.append(
                f"The requested image's platform ({image.document.os}/{wanted}) does not match "
                f"the detected host platform (linux/{own}) and no specific platform was requested"
            )
        return warnings

    async def _make(self, live: Live, image: Image, wanted: list[Wanted]) -> None:
        if not any(one.mount.type == "volume" for one in wanted):
            self._build(live, image)
            self._commit(live)
            return
        async with self._engine.volumes.claimed(wanted) as claim:
            live.record = msgspec.structs.replace(live.record, mounts=claim.mounts)
            self._build(live, image)
            try:
                if claim.fill:
                    await self._engine.volumes.fill(claim, live.record)
            except BaseException:
                self._undo(live)
                raise
            self._commit(live, claim)

    def _build(self, live: Live, image: Image) -> None:
        """What a container has on disk, but for its row."""
        engine, record = self._engine, live.record
        directory = engine.directory(record.id)
        try:
            os.mkdir(directory, 0o710)
            resolved = engine.settings.defaults.resolved(record.host_config)
            gateways = hosts.gateways(engine, record)
            write_files(directory, resolved, spec.hostname(record, engine.machine), gateways)
            engine.driver.create_container(
                record.id, image.chain, image.system, empty=(spec.CONTAINER_MARK,)
            )
            for mount in record.mounts:
                if mount.layers:
                    engine.driver.hold_layer(record.id, mount.layers[-1])
        except BaseException:
            self._undo(live)
            raise

    def _commit(self, live: Live, claim: Claim | None = None) -> None:
        """The row, with those of the volumes that are new with it."""
        engine = self._engine
        try:
            engine.registry.add(live)
            try:
                with engine.database.transaction():
                    if claim is not None and claim.new:
                        engine.volume_store.add(*claim.new)
                    engine.store.add(live.record)
            except BaseException:
                engine.registry.remove(live)
                raise
        except BaseException:
            self._undo(live)
            raise

    def _undo(self, live: Live) -> None:
        self._engine.driver.remove_container(live.id)
        self._engine.bury(live.id)

    def rename(self, reference: str, name: str) -> None:
        """Raises NotFound, Conflict, InvalidArgument."""
        engine = self._engine
        live = engine.registry.find(reference)
        name = name.strip()
        if not name.removeprefix("/"):
            raise InvalidArgument("Neither old nor new names may be empty")
        if name.removeprefix("/") == live.record.name:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        try:
            name = names.check_name(name)
            engine.registry.check_free(name)
        except SampanError as error:
            error.args = (f"Error when allocating new name: {error.message}",)
            raise
        record = msgspec.structs.replace(live.record, name=name)
        engine.store.put(record)
        old = live.record.name
        engine.registry.rename(live, record)
        engine.publish(record, "rename", oldName=f"/{old}")
        if engine.networking.resolving.uses(live):
            engine.spawn_task(engine.networking.resolving.rename(live))
