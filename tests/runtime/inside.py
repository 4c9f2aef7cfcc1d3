"""Runs a function inside a root file system this project built, in a process of its own.

What ``sampan.runtime.launch`` does around ``rootfs``, and no more: so these tests say what the root
file system's own code does. The answer comes back as JSON; an error by its class and message.
"""

from __future__ import annotations

import json
import os
import shutil
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sampan import errors
from sampan.kernel import clone, namespaces
from sampan.kernel.paths import Procfs
from sampan.oci.runtime import IdMapping, Linux, Mount, Namespace, Root, Spec
from sampan.runtime import rootfs, sysctl

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.kernel.cgroups import Group
    from sampan.runtime.launch import Launch

BUSYBOX = "/bin/busybox"
PROC = Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev"))
DEV = Mount(
    destination="/dev",
    type="tmpfs",
    source="tmpfs",
    options=("nosuid", "strictatime", "mode=755", "size=65536k"),
)
PTS = Mount(
    destination="/dev/pts",
    type="devpts",
    source="devpts",
    options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
)
SYS = Mount(
    destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev", "ro")
)
USUAL = (PROC, DEV, PTS, SYS)
OWN = ("mount", "pid", "ipc", "uts", "network")


class Given:
    """The fields of a Launch that a root file system is built from."""

    def __init__(
        self, spec: Spec, bundle: str, layers: tuple[Mount, ...], group: Group | None
    ) -> None:
        self.id = "test"
        self.spec = spec
        self.bundle = bundle
        self.group = group
        self.rootfs = layers
        self.links: dict[str, str] = {}


def make_root(path: Path) -> Path:
    """A tiny root file system with busybox, or just the usual directories."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (path / name).mkdir(parents=True)
    if Path(BUSYBOX).exists():
        shutil.copy(BUSYBOX, path / "bin" / "busybox")
        (path / "bin" / "sh").symlink_to("busybox")
    return path


def spec(
    root: Path,
    *mounts: Mount,
    readonly: bool = False,
    kinds: tuple[str, ...] = OWN,
    **linux: Any,
) -> Spec:
    """A configuration with these mounts and new namespaces of these kinds."""
    return Spec(
        oci_version="1.3.0",
        root=Root(path=str(root), readonly=readonly),
        mounts=mounts,
        linux=Linux(namespaces=tuple(Namespace(type=kind) for kind in kinds), **linux),
    )


def within(
    config: Spec,
    function: Callable[[], object],
    *,
    layers: tuple[Mount, ...] = (),
    bundle: str = "/",
    group: Group | None = None,
    no_pivot: bool = False,
    between: Callable[[rootfs.Root], object] | None = None,
) -> Any:
    """``function``'s result in a process inside the root that ``config`` describes.

    ``between`` runs in the container's namespaces after the build and before it is entered.
    """
    given = cast("Launch", Given(config, bundle, layers, group))
    linux = config.linux or Linux()
    prepared = rootfs.prepare(given)
    flags = 0
    for entry in linux.namespaces:
        flags |= namespaces.KINDS[entry.type][0]
    try:
        reader, writer = os.pipe()
        ready, go = os.pipe()
        pid, pidfd = clone.clone3(flags & ~namespaces.CLONE_NEWCGROUP)
        if pid == 0:
            os.close(reader)
            os.close(go)
            os.read(ready, 1)
            if flags & namespaces.CLONE_NEWCGROUP:
                namespaces.unshare(namespaces.CLONE_NEWCGROUP)
            _child(writer, lambda: _enter(given, prepared, function, no_pivot, between))
    finally:
        prepared.close()
    os.close(writer)
    os.close(ready)
    os.close(pidfd)
    _map(pid, linux)
    if group is not None:
        group.add(pid)
    os.close(go)
    with os.fdopen(reader, "rb") as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    result = json.loads(text)
    if "error" in result:
        name, message, trace = result["error"]
        if name == "Other":
            raise AssertionError(trace)
        raise errors.by_name(name, message)
    return result["value"]


def _map(pid: int, linux: Linux) -> None:
    def rows(mappings: tuple[IdMapping, ...]) -> list[tuple[int, int, int]]:
        return [(row.container_id, row.host_id, row.size) for row in mappings]

    if linux.uid_mappings:
        namespaces.write_id_map(pid, "uid_map", rows(linux.uid_mappings))
        namespaces.write_id_map(pid, "gid_map", rows(linux.gid_mappings))


def _enter(
    given: Launch,
    prepared: rootfs.Prepared,
    function: Callable[[], object],
    no_pivot: bool,
    between: Callable[[rootfs.Root], object] | None,
) -> object:
    if given.spec.linux and given.spec.linux.uid_mappings:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    procfs = Procfs()
    root = rootfs.build(given, prepared, procfs)
    if between is not None:
        between(root)
    root.enter(no_pivot)
    sysctl.apply(given.spec, procfs)
    root.finish()
    return function()


def _child(writer: int, function: Callable[[], object]) -> None:
    try:
        answer: dict[str, object] = {"value": function()}
    except errors.SampanError as error:
        answer = {"error": (type(error).__name__, str(error), "")}
    except BaseException as error:  # noqa: BLE001 - the parent gets and judges it
        answer = {"error": ("Other", str(error), traceback.format_exc())}
    os.write(writer, json.dumps(answer).encode())
    os._exit(0)
