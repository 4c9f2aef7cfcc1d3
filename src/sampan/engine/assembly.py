"""What a start is made of: all that a container needs is there, and said in one message.

Sources, volumes, shared memory and network are seen to here, by the record; the message goes to the
zygote and from there to the container's monitor (``sampan.runtime.supervisor.messages.Spawn``). Who
starts, and what becomes of it, is ``lifecycle``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.engine import spec as specs
from sampan.engine.restarts import joined
from sampan.engine.sources import check_sources
from sampan.errors import InvalidArgument, NotFound, SampanError

if TYPE_CHECKING:
    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine
    from sampan.engine.live import Live
    from sampan.oci.runtime import Spec

__all__ = ["assemble", "spec_of", "with_links"]

_SHOWN = {"network": "network", "ipc": "IPC", "pid": "PID"}


async def assemble(engine: Engine, live: Live) -> dict[str, object]:
    """The message. What it holds of the machine is released when the start fails, or at the end."""
    record = live.record
    config, host = record.config, record.host_config
    if joined(host) or record.links:
        live.spec = None
    if record.links:
        from sampan.engine.links import check

        check(engine, record)
    await engine.archives.vacate(record.id)
    check_sources(record, engine.settings.data_root)
    await engine.volumes.attach(record)
    engine.provide_shm(record)
    spec, seccomp = specs.spec_json(spec_of(engine, live))
    live.spec = None  # what a running container is made of, its monitor knows
    rows, columns = host.console_size
    plugs = await engine.networking.prepare(live)
    return {
        "id": record.id,
        "run_dir": engine.run_dir(record.id),
        "spec": spec,
        "seccomp": seccomp,
        "bundle": engine.directory(record.id),
        "rootfs": [
            mount.to_json()
            for mount in engine.driver.mounts(record.id, disposable=host.auto_remove)
        ],
        "cgroup": engine.cgroup_of(record),
        "log": engine.log_options(record),
        "terminal": config.tty,
        "console_size": [rows, columns] if config.tty and rows else None,
        "stdin": config.open_stdin,
        "stdin_once": config.stdin_once,
        "init": bool(host.init),
        "links": specs.LINKS,
        # With clients waiting, these go first: the socket keeps requests in order.
        # So does the resolver, whose sockets are made in the container's network.
        "start": not (live.parked or engine.networking.resolving.uses(live)),
        **({"plugs": plugs} if plugs else {}),
    }


def spec_of(engine: Engine, live: Live) -> Spec:
    """The specification, built once from create to start."""
    if live.spec is None:
        live.spec = specs.build_spec(
            with_links(engine, live.record),
            directory=engine.directory(live.id),
            root=engine.settings.mount_point,
            cgroup=engine.cgroup_of(live.record),
            machine=engine.machine,
            other=lambda namespace, reference: _other(engine, namespace, reference),
            image=engine.driver.image_mount,
        )
    return live.spec


def with_links(engine: Engine, record: ContainerRecord) -> ContainerRecord:
    """The record as its processes are to have it: with the variables of its links."""
    if not record.links:
        return record
    from sampan.engine.links import with_variables

    return with_variables(engine, record)


def _other(engine: Engine, namespace: str, reference: str) -> specs.Other:
    what = f"failed to join {_SHOWN[namespace]} namespace"
    try:
        other, _ = engine.containers.running(reference)
    except NotFound as error:
        raise InvalidArgument(f"{what}: {error.message}") from error
    except SampanError as error:
        error.args = (f"{what}: {error.message}",)
        raise
    if namespace == "ipc" and other.record.host_config.ipc_mode != "shareable":
        raise InvalidArgument(
            f"{what}: container {reference}: non-shareable IPC (hint: use IpcMode:shareable "
            "for the donor container)"
        )
    directory = engine.directory(other.id)
    if namespace == "network":
        directory = engine.names_directory(other.record)
    return specs.Other(other.record.state.pid, directory)
