"""What a program asks of a container: keyword arguments in, the Engine API's checked request out.

The request is the daemon's own (``engine.reading.read_create``), so that a field means here what it
means there, has the same default and is refused with the same sentence.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import msgspec

from sampan.engine.reading import read_create
from sampan.errors import InvalidArgument, NotSupported

if TYPE_CHECKING:
    from sampan.engine.config import CreateRequest

__all__ = [
    "OUTPUT_LIMIT", "Bind", "ContainerOptions", "CreateOptions", "File", "Options", "Request",
    "RunOptions", "StartOptions", "Tmpfs", "create_body", "read_options", "size",
]  # fmt: skip

OUTPUT_LIMIT = 16 << 20
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Bind(msgspec.Struct, frozen=True):
    """A file or directory of this machine, ``source``, at ``target`` in the container."""

    source: str | os.PathLike[str]
    target: str
    read_only: bool = False


class Tmpfs(msgspec.Struct, frozen=True):
    """A file system in memory at ``target``, of ``size`` bytes at most, gone with the container.

    Its pages count as the container's memory. ``executable``: programs on it may be executed.
    """

    target: str
    size: int | str | None = None
    mode: int = 0o1777
    executable: bool = False


class File(msgspec.Struct, frozen=True):
    """A file to be put into a container: its bytes, mode and owner."""

    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


Mount = Bind | Tmpfs
Content = bytes | str | os.PathLike[str] | File


class ContainerOptions(TypedDict, total=False):
    """Keyword arguments of everything that makes a container; docs/sdk.md says more of each."""

    # The process
    entrypoint: Sequence[str]
    env: Mapping[str, str]
    workdir: str
    user: str | int
    groups: Sequence[int]
    hostname: str
    init: bool
    ulimits: Mapping[str, int | tuple[int, int]]
    # What it may use: bytes as a number or "256m", CPUs as a number
    memory: int | str
    memory_swap: int | str
    cpus: float
    cpu_shares: int
    cpuset_cpus: str
    pids: int
    shm_size: int | str
    # What it sees
    read_only: bool
    mounts: Sequence[Mount]
    # What it may do
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    no_new_privileges: bool
    seccomp: str | Mapping[str, object] | None
    privileged: bool
    devices: Sequence[str]
    sysctls: Mapping[str, str]


class Options(ContainerOptions, total=False):
    """Those of containers that a session runs."""

    network: Literal["none", "host"] | None
    files: Mapping[str, Content]
    collect: Sequence[str]
    # How long, and how much of what it says is kept
    timeout: float | None
    output_limit: int | str
    merge_stderr: bool


class RunOptions(Options, total=False):
    """Those of ``run``: ``input`` for its standard input, ``check`` to raise what is no success."""

    input: bytes | str
    check: bool


class StartOptions(Options, total=False):
    """Those of ``start``: ``stdin`` to keep its standard input open for ``write``."""

    stdin: bool


class CreateOptions(ContainerOptions, total=False):
    """Those of containers that a daemon keeps (``sampan.connect``)."""

    name: str
    network: str
    labels: Mapping[str, str]
    auto_remove: bool
    restart: str
    stdin: bool
    tty: bool
    stop_signal: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """All that was asked for, checked."""

    image: str
    create: CreateRequest
    files: dict[str, File]
    collect: tuple[str, ...]
    hidden: tuple[str, ...]
    """Places of mounts: what lies below in the root file system is not seen there."""
    timeout: float | None
    output_limit: int
    merge_stderr: bool
    input: bytes | None
    keep_stdin: bool
    check: bool


def size(value: int | str, name: str) -> int:
    """Bytes, from a number or a text such as ``256m`` (powers of 1024)."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= 0:
            return value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(float(match[1]) * _UNITS[match[2].lower()])
    raise InvalidArgument(f'{name} {value!r}: expected bytes, as a number or as text like "256m"')


def read_options(
    image: str, command: Iterable[str | os.PathLike[str]], options: Mapping[str, Any]
) -> Request:
    """Check everything that can be checked without looking at the image.

    Raises InvalidArgument, NotSupported; TypeError for a keyword nobody knows.
    """
    given = _given(options, StartOptions.__annotations__ | RunOptions.__annotations__)
    files = {_path(path, "files"): _file(path, what) for path, what in _items(given, "files")}
    collect = tuple(_path(path, "collect") for path in given.get("collect", ()))
    hidden = tuple(_path(mount.target, "mounts") for mount in given["mounts"])
    for name, paths in (("files", files), ("collect", collect)):
        for path in paths:
            for place in hidden:
                if path == place or path.startswith(f"{place}/"):
                    raise InvalidArgument(
                        f"{name}: {path} is below the mount at {place}, which hides it"
                    )
    timeout = given.get("timeout")
    if timeout is not None and not 0 < _number(timeout, "timeout") < math.inf:
        raise InvalidArgument(f"timeout {timeout!r}: expected seconds, more than 0; None for none")
    network = given.get("network", "none")
    if network not in ("none", "host"):
        raise NotSupported(
            f"network {network} is not supported by run and start: a container of theirs has a "
            "loopback of its own (None) or the machine's network (\"host\"); a daemon's containers "
            "are on networks (sampan.connect)"
        )
    text = given.get("input")
    return Request(
        image=image,
        create=read_create(_body(image, command, given)),
        files=files,
        collect=collect,
        hidden=hidden,
        timeout=timeout,
        output_limit=size(given.get("output_limit", OUTPUT_LIMIT), "output_limit"),
        merge_stderr=bool(given.get("merge_stderr")),
        input=text.encode() if isinstance(text, str) else text,
        keep_stdin=bool(given.get("stdin")),
        check=bool(given.get("check")),
    )


def create_body(
    image: str, command: Iterable[str | os.PathLike[str]], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The body of ``POST /containers/create``, from the fields of ``CreateOptions`` but its name.

    Raises InvalidArgument; TypeError for a keyword nobody knows.
    """
    given = _given(options, CreateOptions.__annotations__)
    body = _body(image, command, given)
    host = body["HostConfig"]
    host["AutoRemove"] = bool(given.get("auto_remove"))
    if "restart" in given:
        name, _, count = given["restart"].partition(":")
        host["RestartPolicy"] = {"Name": name, "MaximumRetryCount": int(count or 0)}
    body["Labels"] = dict(_items(given, "labels"))
    body["Tty"] = bool(given.get("tty"))
    body["OpenStdin"] = body["StdinOnce"] = bool(given.get("stdin"))
    if "stop_signal" in given:
        body["StopSignal"] = given["stop_signal"]
    return body


def _given(options: Mapping[str, Any], known: Mapping[str, object]) -> dict[str, Any]:
    """The options that are not None, and ``mounts`` in any case."""
    for name in options:
        if name not in known:
            raise TypeError(f"sampan: no keyword argument {name!r}")
    given = {name: value for name, value in options.items() if value is not None}
    given["mounts"] = tuple(given.get("mounts", ()))
    for mount in given["mounts"]:
        if not isinstance(mount, Bind | Tmpfs):
            raise InvalidArgument(f"mounts: expected Bind or Tmpfs, not {type(mount).__name__}")
    return given


def _items(given: Mapping[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    value = given.get(name, {})
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{name}: expected a mapping, not {type(value).__name__}")
    return value.items()


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(f"{name} {value!r}: expected a number")
    return value


def _path(path: object, name: str) -> str:
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"{name} {path!r}: expected an absolute path in the container")
    clean = os.path.normpath(path).replace("//", "/", 1)
    if clean == "/":
        raise InvalidArgument(f"{name}: / is the root file system itself")
    return clean


def _file(path: str, what: object) -> File:
    if isinstance(what, File):
        return what
    if isinstance(what, bytes | bytearray | memoryview):
        return File(bytes(what))
    if isinstance(what, str):
        return File(what.encode())
    if isinstance(what, os.PathLike):
        try:
            with open(what, "rb") as file:
                return File(file.read(), os.fstat(file.fileno()).st_mode & 0o777)
        except OSError as error:
            raise InvalidArgument(f"files {path}: {os.fspath(what)}: {error.strerror}") from error
    raise InvalidArgument(
        f"files {path}: expected bytes, text, a path of this machine or a File, "
        f"not {type(what).__name__}"
    )


def _word(word: str | os.PathLike[str]) -> str:
    if isinstance(word, str | os.PathLike):
        text = os.fspath(word)
        if isinstance(text, str):
            return text
    raise InvalidArgument(f"command: {word!r}: expected text or a path, not {type(word).__name__}")


def _body(
    image: str, command: Iterable[str | os.PathLike[str]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What the body of ``POST /containers/create`` is for every container."""
    if isinstance(command, str | bytes):
        raise InvalidArgument(
            f'command {command!r}: expected a list of words; a shell\'s line is ["sh", "-c", "…"]'
        )
    mounts: tuple[Mount, ...] = given["mounts"]
    network = given.get("network", "none")
    host: dict[str, Any] = {
        "NetworkMode": network,
        "Mounts": [_mount(mount) for mount in mounts if isinstance(mount, Bind)],
        "Tmpfs": {m.target: _tmpfs(m) for m in mounts if isinstance(m, Tmpfs)},
        "SecurityOpt": _security(given),
        "GroupAdd": [str(group) for group in given.get("groups", ())],
        "Ulimits": [_ulimit(name, limit) for name, limit in _items(given, "ulimits")],
        "Sysctls": dict(_items(given, "sysctls")),
        "Devices": [{"PathOnHost": path} for path in given.get("devices", ())],
    }
    for name, field in _SIZES.items():
        if name in given:
            host[field] = size(given[name], name)
    for name, field in _PLAIN.items():
        if name in given:
            value = given[name]
            host[field] = list(value) if isinstance(value, tuple) else value
    if "cpus" in given:
        host["NanoCpus"] = round(_number(given["cpus"], "cpus") * 1_000_000_000)
    body: dict[str, Any] = {
        "Image": image,
        "Cmd": [_word(word) for word in command],
        "Env": [_variable(name, value) for name, value in _items(given, "env")],
        "HostConfig": host,
    }
    for name, field in (("workdir", "WorkingDir"), ("user", "User"), ("hostname", "Hostname")):
        if name in given:
            body[field] = str(given[name])
    if "entrypoint" in given:
        body["Entrypoint"] = list(given["entrypoint"])
    return body


_SIZES = {"memory": "Memory", "memory_swap": "MemorySwap", "shm_size": "ShmSize"}
_PLAIN = {
    "cap_add": "CapAdd",
    "cap_drop": "CapDrop",
    "cpu_shares": "CpuShares",
    "cpuset_cpus": "CpusetCpus",
    "init": "Init",
    "pids": "PidsLimit",
    "privileged": "Privileged",
    "read_only": "ReadonlyRootfs",
}


def _mount(mount: Bind) -> dict[str, object]:
    return {
        "Type": "bind",
        "Source": os.path.abspath(mount.source),
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }


def _tmpfs(mount: Tmpfs) -> str:
    words = [f"mode={mount.mode:o}"]
    if mount.size is not None:
        words.append(f"size={size(mount.size, 'Tmpfs.size')}")
    if mount.executable:
        words.append("exec")
    return ",".join(words)


def _security(given: Mapping[str, Any]) -> list[str]:
    options = []
    if given.get("no_new_privileges"):
        options.append("no-new-privileges")
    profile = given.get("seccomp")
    if profile is not None:
        text = profile if isinstance(profile, str) else json.dumps(dict(profile))
        options.append(f"seccomp={text}")
    return options


def _ulimit(name: str, limit: int | tuple[int, int]) -> dict[str, object]:
    soft, hard = limit if isinstance(limit, tuple) else (limit, limit)
    return {"Name": name, "Soft": soft, "Hard": hard}


def _variable(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"env {name}: expected text, not {type(value).__name__}")
    if not name or "=" in name:
        raise InvalidArgument(f"env {name!r}: not a variable's name")
    return f"{name}={value}"
