"""A container as the runtime specification sees it: record and paths in, ``config.json`` out.

The defaults are Docker's: what runs there runs here. Only values go in and out; nothing is made
and nothing is looked up but the machine's devices, and the processes of a container whose
namespaces are joined, which the caller resolves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sampan.engine import resources as limits
from sampan.engine import security
from sampan.engine.files import FILES
from sampan.engine.seccomp import profile_for, program_json
from sampan.engine.sysctls import sysctls
from sampan.errors import InvalidArgument
from sampan.oci.runtime import (
    SPEC_VERSION,
    Capabilities,
    ConsoleSize,
    Linux,
    Mount,
    Namespace,
    Process,
    Root,
    Spec,
    User,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sampan.engine.config import HostConfig
    from sampan.engine.container import ContainerRecord

__all__ = [
    "CONTAINER_MARK",
    "LINKS",
    "DEFAULT_PATH",
    "MOUNT_POINTS",
    "SHM",
    "SHM_SIZE",
    "Other",
    "build_process",
    "build_spec",
    "check_modes",
    "hostname",
    "own_mounts",
    "spec_json",
]

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM_SIZE = 64 * 1024 * 1024
SHM_PLACE = "/dev/shm"
SHM = "shm"
"""In a container's directory: the mount point of a /dev/shm that others may join."""

CONTAINER_MARK = ".dockerenv"
"""The empty file by which programs know that they are in a container."""

LINKS = {"/etc/mtab": "/proc/mounts"}
"""Made where the image has nothing: older programs look there for what is mounted (mount(8))."""

MOUNT_POINTS = frozenset(
    (
        *(b"dev", b"proc", b"sys", CONTAINER_MARK.encode()),
        *(f"etc/{name}".encode() for name in FILES),
        *(path[1:].encode() for path in LINKS),
    )
)
"""Paths in every root file system where we mount something, and make what is missing for it, or
make an empty file or a link: no change of the container's."""

_PROC = Mount(
    destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev")
)
_DEV = Mount(
    destination="/dev",
    type="tmpfs",
    source="tmpfs",
    options=("nosuid", "strictatime", "mode=755", "size=65536k"),
)
_PTS = Mount(
    destination="/dev/pts",
    type="devpts",
    source="devpts",
    options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
)
_MQUEUE = Mount(
    destination="/dev/mqueue",
    type="mqueue",
    source="mqueue",
    options=("nosuid", "noexec", "nodev"),
)
_BIND = ("rbind", "rprivate")

# HostConfig field -> namespace, the modes that mean "its own", whether another's may be joined.
_MODES: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "network_mode": ("network", ("", "default", "bridge", "none"), True),
    "ipc_mode": ("ipc", ("", "private", "shareable", "none"), True),
    "pid_mode": ("pid", ("", "private"), True),
    "uts_mode": ("uts", ("", "private"), False),
    "cgroupns_mode": ("cgroup", ("", "private"), False),
}
_WIRE = {
    "network_mode": "NetworkMode",
    "ipc_mode": "IpcMode",
    "pid_mode": "PidMode",
    "uts_mode": "UTSMode",
    "cgroupns_mode": "CgroupnsMode",
}


class Other(NamedTuple):
    """A running container whose namespaces are joined: its init, and its directory."""

    pid: int
    directory: str


def check_modes(host: HostConfig) -> None:
    """Refuse namespace modes we do not know. Raises InvalidArgument, NotSupported."""
    for field, (_, own, joinable) in _MODES.items():
        mode = getattr(host, field)
        if mode in own or mode == "host":
            continue
        name = _WIRE[field]
        if mode.startswith("container:"):
            if not joinable:
                raise InvalidArgument(f'HostConfig.{name} "{mode}" is invalid: use host or private')
            if not mode.partition(":")[2]:
                raise InvalidArgument(f'HostConfig.{name} "{mode}" names no container')
            continue
        if field == "network_mode":
            continue  # a network's name
        raise InvalidArgument(f'HostConfig.{name} "{mode}" is invalid: use host or private')


def _namespaces(host: HostConfig, other: Callable[[str, str], Other]) -> list[Namespace]:
    spaces = [Namespace(type="mount")]
    for field, (kind, _, _) in _MODES.items():
        mode = getattr(host, field)
        if mode == "host":
            continue
        if mode.startswith("container:"):
            pid = other(kind, mode.partition(":")[2]).pid
            entry = {"network": "net"}.get(kind, kind)
            spaces.append(Namespace(type=kind, path=f"/proc/{pid}/ns/{entry}"))
        else:
            spaces.append(Namespace(type=kind))
    return spaces


def hostname(record: ContainerRecord, machine: str) -> str:
    """What the container is called inside; ``machine`` is this one's name."""
    if record.config.hostname:
        return record.config.hostname
    if record.host_config.network_mode == "host" or record.host_config.uts_mode == "host":
        return machine
    return record.id[:12]


def _standard_mounts(record: ContainerRecord, shm: str, writable_cgroups: bool) -> list[Mount]:
    host = record.host_config
    sysfs = ["nosuid", "noexec", "nodev"]
    cgroup = ["nosuid", "noexec", "nodev", "relatime"]
    if not host.privileged:
        sysfs.append("ro")
    if not host.privileged and not writable_cgroups:
        cgroup.append("ro")
    mounts = [
        _PROC,
        _DEV,
        _PTS,
        Mount(destination="/sys", type="sysfs", source="sysfs", options=tuple(sysfs)),
        Mount(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=tuple(cgroup)),
    ]
    # Also with the machine's IPC namespace: a mount of this type shows that of who makes it.
    mounts.append(_MQUEUE)
    if host.ipc_mode == "host":
        mounts.append(Mount(destination=SHM_PLACE, type="bind", source=SHM_PLACE, options=_BIND))
    elif shm:
        mounts.append(Mount(destination=SHM_PLACE, type="bind", source=shm, options=_BIND))
    elif host.ipc_mode != "none":
        size = host.shm_size or SHM_SIZE
        options = ("nosuid", "noexec", "nodev", "mode=1777", f"size={size}")
        mounts.append(Mount(destination=SHM_PLACE, type="tmpfs", source="shm", options=options))
    return mounts


def own_mounts(
    record: ContainerRecord, names: str, image: Callable[[Sequence[str]], Mount]
) -> list[Mount]:
    """The files of its network's names, in the directory ``names``, and what the user asked for;
    ``image(chain)`` is the storage driver's mount of an image's layers."""
    own = {mount.destination for mount in record.mounts}
    binding = (*_BIND, "ro") if record.host_config.readonly_rootfs else _BIND
    mounts = []
    for name in FILES:
        place = f"/etc/{name}"
        if place not in own:
            mounts.append(
                Mount(destination=place, type="bind", source=f"{names}/{name}", options=binding)
            )
    for mount in record.mounts:
        if mount.type == "image":
            found = image(mount.layers)
            options = (*found.options, *mount.options)
            mounts.append(found.replace(destination=mount.destination, options=options))
            continue
        kind = "tmpfs" if mount.type == "tmpfs" else "bind"
        source = "tmpfs" if mount.type == "tmpfs" else mount.source
        mounts.append(
            Mount(destination=mount.destination, type=kind, source=source, options=mount.options)
        )
    return mounts


def _mounts(
    record: ContainerRecord,
    names: str,
    shm: str,
    writable_cgroups: bool,
    image: Callable[[Sequence[str]], Mount],
) -> tuple[Mount, ...]:
    own = {mount.destination for mount in record.mounts}
    mounts = [
        mount
        for mount in _standard_mounts(record, shm, writable_cgroups)
        if mount.destination not in own
    ]
    return (*mounts, *own_mounts(record, names, image))


def build_process(record: ContainerRecord, host_name: str) -> Process:
    """The container's first process; an exec takes its defaults from here too."""
    config, host = record.config, record.host_config
    options = security.read_security(host.security_opt or ())
    granted = security.capabilities(host)
    env = [DEFAULT_PATH, f"HOSTNAME={host_name}"]
    if config.tty:
        env.append("TERM=xterm")
    given = [item for item in config.env or () if "=" in item]
    names = {item.partition("=")[0] for item in config.env or ()}
    rows, columns = host.console_size
    groups = host.group_add or []
    return Process(
        cwd=config.working_dir or "/",
        args=record.args,
        env=tuple([item for item in env if item.partition("=")[0] not in names] + given),
        terminal=config.tty,
        console_size=ConsoleSize(height=rows, width=columns) if config.tty and rows else None,
        user=User(
            username=config.user or "0",  # with root's groups in the image's files
            additional_gids=tuple(int(group) for group in groups if group.isdecimal()),
            additional_groups=tuple(group for group in groups if not group.isdecimal()),
        ),
        capabilities=Capabilities(effective=granted, permitted=granted, bounding=granted),
        rlimits=limits.rlimits(host),
        no_new_privileges=options.no_new_privileges,
        oom_score_adj=_oom_score(host.oom_score_adj),
    )


def _oom_score(value: int) -> int | None:
    if not -1000 <= value <= 1000:
        raise InvalidArgument(f"Invalid value {value}, range for oom score adj is [-1000, 1000]")
    return value or None


def build_spec(
    record: ContainerRecord,
    *,
    directory: str,
    root: str,
    cgroup: str,
    machine: str,
    other: Callable[[str, str], Other],
    image: Callable[[Sequence[str]], Mount],
) -> Spec:
    """``directory`` holds the container's files, ``root`` is where its root file system will be
    mounted, ``other(namespace, reference)`` finds a container whose namespace is joined, ``image``
    as for ``own_mounts``.

    Raises InvalidArgument, NotSupported, and whatever ``other`` raises.
    """
    host = record.host_config
    options = security.read_security(host.security_opt or ())
    check_modes(host)
    process = build_process(record, hostname(record, machine))
    granted = process.capabilities.bounding if process.capabilities else ()
    given = security.every_device() if host.privileged else []
    given += security.devices(host.devices)
    masked, readonly = security.hidden_paths(host)
    shm = f"{directory}/{SHM}" if host.ipc_mode == "shareable" else ""
    if host.ipc_mode.startswith("container:"):
        shm = f"{other('ipc', host.ipc_mode.partition(':')[2]).directory}/{SHM}"
    names = directory
    if host.network_mode.startswith("container:"):
        # Who is in another's network finds others by the same names, and at the same resolver.
        names = other("network", host.network_mode.partition(":")[2]).directory
    own_names = host.uts_mode != "host"
    if not own_names and (record.config.hostname or record.config.domainname):
        raise InvalidArgument(
            "conflicting options: hostname and the UTS mode: the host's name is not the container's"
        )
    propagations = {mount.propagation.removeprefix("r") for mount in record.mounts}
    propagation = next((kind for kind in ("shared", "slave") if kind in propagations), None)
    return Spec(
        oci_version=SPEC_VERSION,
        root=Root(path=root, readonly=host.readonly_rootfs),
        process=process,
        mounts=_mounts(record, names, shm, options.writable_cgroups, image),
        hostname=hostname(record, machine) if own_names else None,
        domainname=record.config.domainname or None,
        annotations=host.annotations,
        linux=Linux(
            namespaces=tuple(_namespaces(host, other)),
            devices=tuple(device for device, _ in given),
            resources=limits.resources(host, security.device_rules(host, given)),
            cgroups_path=cgroup,
            sysctl=sysctls(host),
            seccomp=profile_for(options.seccomp, granted, host.privileged),
            masked_paths=masked,
            readonly_paths=readonly,
            rootfs_propagation=f"r{propagation}" if propagation else None,
        ),
    )


def spec_json(spec: Spec) -> tuple[dict[str, object], dict[str, object] | None]:
    """(``config.json`` of a specification, its seccomp program apart from it if there is one)."""
    linux = spec.linux
    if linux is None or linux.seccomp is None:
        return spec.to_json(), None
    program = program_json(linux.seccomp)
    if program is not None:
        spec = spec.replace(linux=linux.replace(seccomp=None))
    return spec.to_json(), program
