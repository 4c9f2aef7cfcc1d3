"""Commit: a container's changes as an image.

The configuration is what the request gives (nothing, most often), the changes applied to it, and
for whatever that leaves open the container's own: the rules of ``merge``, one step further on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.engine.merge import merge
from sampan.engine.spec import MOUNT_POINTS
from sampan.engine.threads import in_thread
from sampan.errors import Conflict, NotFound, SampanError
from sampan.oci import image as oci

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.engine.config import ContainerConfig
    from sampan.engine.core import Engine

__all__ = ["commit", "image_config"]


async def commit(
    engine: Engine,
    reference: str,
    *,
    repository: str = "",
    tag: str = "",
    author: str = "",
    comment: str = "",
    changes: Sequence[str] = (),
    config: ContainerConfig | None = None,
    pause: bool = True,
) -> str:
    """The new image's ID. Raises NotFound, Conflict, InvalidArgument, NotSupported."""
    from sampan.image.committing import commit as make
    from sampan.image.instructions import apply_changes

    live = engine.registry.find(reference)
    record = live.record
    full = f"{repository}:{tag}" if tag else repository
    name = engine.image_store.taggable(full) if repository else None
    own = image_config(record.config)
    asked = image_config(config) if config is not None else oci.ImageConfig()
    wanted = image_config(merge(container_config(apply_changes(asked, changes)), own))
    if config is None:
        # The container's variables first, in their order, as where they are what is changed.
        wanted = wanted.replace(env=apply_changes(own, changes).env)
    image = await engine.images.resolve(record.image_id)
    created_by = " ".join(_words(record.config.cmd))
    paused = pause and record.state.status == "running"
    if paused:
        try:
            await engine.control.pause(live.id, committing=True)
        except Conflict:
            paused = False  # it ended, or somebody else froze it: as good

    def check() -> None:
        if live.id not in engine.registry:
            raise NotFound(f"No such container: {reference}: it was removed meanwhile")

    try:
        image_id = await in_thread(
            lambda: make(
                engine.image_store,
                record.id,
                image,
                wanted,
                name=name,
                author=author,
                comment=comment,
                created_by=created_by,
                check=check,
                marks=MOUNT_POINTS,
            ),
            "commit",
        )
    except (SampanError, OSError):
        check()  # else that is why
        raise
    finally:
        engine.images.changed()
        if paused and live.record.state.status == "paused":
            await engine.control.unpause(live.id)
    shown = ""
    if name is not None:
        shown = name.familiar
        await engine.images.tell("tag", image_id, shown)
    engine.publish(live.record, "commit", comment=comment, imageID=image_id, imageRef=shown)
    return image_id


def image_config(config: ContainerConfig) -> oci.ImageConfig:
    """What of a container's configuration an image can carry."""
    health = config.healthcheck
    return oci.ImageConfig(
        user=config.user,
        exposed_ports=dict(config.exposed_ports or {}),
        env=tuple(config.env or ()),
        entrypoint=_words(config.entrypoint),
        cmd=_words(config.cmd),
        volumes=dict(config.volumes or {}),
        working_dir=config.working_dir,
        labels=dict(config.labels or {}),
        stop_signal=config.stop_signal or None,
        stop_timeout=config.stop_timeout,
        on_build=tuple(config.on_build or ()),
        shell=tuple(config.shell or ()),
        healthcheck=None
        if health is None or not health.test
        else oci.Healthcheck(
            test=tuple(health.test),
            interval=health.interval or None,
            timeout=health.timeout or None,
            start_period=health.start_period or None,
            start_interval=health.start_interval or None,
            retries=health.retries or None,
        ),
    )


def container_config(config: oci.ImageConfig) -> ContainerConfig:
    """The same the other way, with what is not there as nothing said."""
    from sampan.engine.config import ContainerConfig, Healthcheck

    health = config.healthcheck
    return ContainerConfig(
        user=config.user,
        exposed_ports={port: {} for port in config.exposed_ports} or None,
        env=list(config.env) or None,
        entrypoint=list(config.entrypoint) or None,
        cmd=list(config.cmd) or None,
        volumes={place: {} for place in config.volumes} or None,
        working_dir=config.working_dir,
        labels=dict(config.labels) or None,
        stop_signal=config.stop_signal or "",
        stop_timeout=config.stop_timeout,
        on_build=list(config.on_build) or None,
        shell=list(config.shell) or None,
        healthcheck=None
        if health is None
        else Healthcheck(
            test=list(health.test),
            interval=health.interval or 0,
            timeout=health.timeout or 0,
            start_period=health.start_period or 0,
            start_interval=health.start_interval or 0,
            retries=health.retries or 0,
        ),
    )


def _words(command: list[str] | str | None) -> tuple[str, ...]:
    return (command,) if isinstance(command, str) else tuple(command or ())
