"""From a checked request to a container that is being made: its files, its message to the zygote.

The configuration is the engine's own (``engine.spec``), built from the same record that the daemon
would store: only where things lie differs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from sampan.engine import merge, spec
from sampan.engine.container import ContainerRecord, UserMount, now
from sampan.engine.files import write_files
from sampan.engine.mounts import Reader
from sampan.errors import InvalidArgument, KernelError
from sampan.sdk import files, roots

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from typing import NoReturn

    from sampan.sdk.home import Home
    from sampan.sdk.images import Found
    from sampan.sdk.options import Request

__all__ = ["Made", "Pipes", "make"]


class Pipes(NamedTuple):
    """Our ends of a process's standard I/O, which do not block; -1 for what it has not."""

    stdin: int
    stdout: int
    stderr: int


class Made(NamedTuple):
    """A container that was asked for. ``control`` is the connection with its monitor."""

    name: str
    control: socket.socket
    pipes: Pipes
    base: roots.Base


def make(home: Home, request: Request) -> Made:
    """Make a container's files and ask for it. Raises the errors of ``sampan.errors``."""
    try:
        with home.beginning() as name:
            return _make(home, request, name)
    except OSError as error:
        if isinstance(error, KernelError):
            raise
        raise KernelError(
            "make a container", error.errno or 0, str(error.filename or "")
        ) from error


def _make(home: Home, request: Request, name: str) -> Made:
    found = home.images.find(request.image)
    directory = home.container_directory(name)
    record = _record(home, request, found, name)
    spec.check_modes(record.host_config)
    roots.make(directory, found.base)
    machine = os.uname().nodename
    write_files(directory, record.host_config, spec.hostname(record, machine))
    recipe = roots.recipe(directory, found.base)
    if request.files:
        roots.inside(recipe, f"{home.directory}/view", lambda root: files.put(root, request.files))
    built = spec.build_spec(
        record,
        directory=directory,
        root=f"{home.directory}/root",
        cgroup=home.cgroup(name),
        machine=machine,
        other=_no_other,
        image=_no_image,
    )
    config, seccomp = spec.spec_json(built)
    message: dict[str, object] = {
        "id": name,
        "run_dir": home.run_directory(name),
        "spec": config,
        "seccomp": seccomp,
        "bundle": directory,
        "rootfs": [mount.to_json() for mount in recipe],
        "cgroup": home.cgroup(name),
        "init": bool(record.host_config.init),
        "start": True,
        "stdio": True,
        "bound": True,
    }
    ours, theirs = _pipes(request)
    try:
        control = home.spawn(message, theirs)
    except BaseException:
        _close(ours)
        raise
    finally:
        _close(theirs[:2] if request.merge_stderr else theirs)
    control.setblocking(False)
    return Made(name, control, ours, found.base)


def _record(home: Home, request: Request, found: Found, name: str) -> ContainerRecord:
    host = request.create.host_config
    config = merge.merge(request.create.config, found.image.config)
    declared = tuple(config.volumes or ())
    config = msgspec.structs.replace(config, volumes=None)
    mounts = [one.mount for one in Reader(_no_container, home.data_root).read(config, host)]
    if host.readonly_rootfs:
        mounts += _volumes(request, declared)
    return ContainerRecord(
        id=name,
        name=name,
        created=now(),
        image_id=found.image.id,
        image_name=request.image,
        driver="overlay2",
        config=msgspec.structs.replace(config, hostname=config.hostname or name),
        host_config=host,
        args=merge.command(config),
        mounts=tuple(mounts),
    )


def _volumes(request: Request, declared: Iterable[str]) -> list[UserMount]:
    """The volumes an image declares, in a read-only root: each a tmpfs, filled with what the image
    has there. In a writable root they are a part of it, which lives as long as they would."""
    mounts = []
    for place in map(os.path.normpath, declared):
        if place in request.hidden:
            continue
        for path in request.collect:
            if f"{path}/".startswith(f"{place}/"):
                raise InvalidArgument(
                    f"collect: {path} is in {place}, which the image declares a volume: in a "
                    "read-only container that is writable, and gone with it"
                )
        options = ("tmpcopyup", "nosuid", "nodev")
        mounts.append(UserMount(type="tmpfs", destination=place, options=options))
    return mounts


def _no_other(namespace: str, reference: str) -> NoReturn:
    raise InvalidArgument(f"{namespace} of {reference}: containers here join no others' namespaces")


def _no_container(reference: str) -> NoReturn:
    raise InvalidArgument(f"{reference}: containers here have no others' volumes")


def _no_image(chain: Iterable[str]) -> NoReturn:
    raise InvalidArgument(f"{chain}: containers here mount no other images")


def _pipes(request: Request) -> tuple[Pipes, tuple[int, int, int]]:
    """(our ends, the process's)."""
    opened: list[int] = []
    try:
        if request.input is not None or request.keep_stdin:
            stdin, ours = os.pipe2(os.O_CLOEXEC)
            opened += (stdin, ours)
        else:
            stdin, ours = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
            opened.append(stdin)
        from_stdout, stdout = os.pipe2(os.O_CLOEXEC)
        opened += (from_stdout, stdout)
        from_stderr, stderr = -1, stdout
        if not request.merge_stderr:
            from_stderr, stderr = os.pipe2(os.O_CLOEXEC)
            opened += (from_stderr, stderr)
        for fd in (ours, from_stdout, from_stderr):
            if fd >= 0:
                os.set_blocking(fd, False)
    except BaseException:
        _close(opened)
        raise
    return Pipes(ours, from_stdout, from_stderr), (stdin, stdout, stderr)


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
