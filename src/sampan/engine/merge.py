"""What a container takes over from its image where its own configuration is silent.

The rules are Docker's: a given entrypoint silences the image's command; the environment and the
labels are merged by name, the container's winning; of the rest, what is set wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.engine.config import Healthcheck
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.engine.config import ContainerConfig
    from sampan.oci.image import Healthcheck as ImageHealth
    from sampan.oci.image import ImageConfig

__all__ = ["command", "merge"]


def _environment(own: list[str], image: tuple[str, ...]) -> list[str]:
    for item in own:
        if not item or item.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {item}")
    names = {item.partition("=")[0] for item in own}
    return [*own, *(item for item in image if item.partition("=")[0] not in names)]


def _health(own: Healthcheck | None, image: ImageHealth | None) -> Healthcheck | None:
    """A check of the container's own takes what it does not say from the image's."""
    if image is None:
        return own
    own = own or Healthcheck()
    return Healthcheck(
        test=own.test or list(image.test),
        interval=own.interval or image.interval or 0,
        timeout=own.timeout or image.timeout or 0,
        start_period=own.start_period or image.start_period or 0,
        start_interval=own.start_interval or image.start_interval or 0,
        retries=own.retries or image.retries or 0,
    )


def merge(config: ContainerConfig, image: ImageConfig) -> ContainerConfig:
    """The container's configuration, complete. Raises InvalidArgument."""
    entrypoint, cmd = config.entrypoint, config.cmd
    if entrypoint is None:
        # An empty list is an answer ("none"), absence is not.
        entrypoint = list(image.entrypoint) or None
        if not cmd:
            cmd = list(image.cmd) or None
    elif entrypoint == [""]:
        entrypoint = None
    return msgspec.structs.replace(
        config,
        user=config.user or image.user,
        env=_environment(config.env or [], image.env),
        entrypoint=entrypoint,
        cmd=cmd,
        exposed_ports={**{port: {} for port in image.exposed_ports}, **(config.exposed_ports or {})}
        or None,
        labels={**image.labels, **(config.labels or {})},
        working_dir=config.working_dir or image.working_dir,
        volumes={**{place: {} for place in image.volumes}, **(config.volumes or {})} or None,
        stop_signal=config.stop_signal or image.stop_signal or "",
        healthcheck=_health(config.healthcheck, image.healthcheck),
        stop_timeout=config.stop_timeout if config.stop_timeout is not None else image.stop_timeout,
    )


def command(config: ContainerConfig) -> tuple[str, ...]:
    """Entrypoint and command. Raises InvalidArgument when there is neither."""
    args = (*(config.entrypoint or ()), *(config.cmd or ()))
    if not args:
        raise InvalidArgument(
            "no command specified: the image names none, give one behind the image's name"
        )
    return args
