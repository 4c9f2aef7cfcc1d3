"""The daemon's command line: dockerd's names for what we have, everything else refused by name."""

from __future__ import annotations

import argparse
import os

import msgspec

from sampan import __version__
from sampan.engine.log import LEVELS
from sampan.errors import InvalidArgument, NotSupported
from sampan.storage.drivers import DRIVERS

__all__ = ["DEFAULT_HOST", "Address", "Options", "parse", "parse_host"]

DEFAULT_HOST = "unix:///run/sampan/sampan.sock"


class Address(msgspec.Struct, frozen=True):
    """Where to listen: a Unix socket's path, or a host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    hosts: tuple[Address, ...]
    data_root: str
    exec_root: str
    pidfile: str
    storage_driver: str
    cgroup_parent: str
    group: str
    log_level: str


def parse_host(text: str, *, insecure: bool) -> Address:
    """``unix:///path`` or ``tcp://host:port``. Raises InvalidArgument, NotSupported."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise InvalidArgument(f"-H {text}: write unix:///path or tcp://address:port")
    if scheme == "unix":
        path = rest or DEFAULT_HOST.removeprefix("unix://")
        if not path.startswith("/"):
            raise InvalidArgument(f"-H {text}: the socket's path must be absolute: unix:///path")
        return Address(path=path)
    if scheme != "tcp":
        raise NotSupported(f"-H {text}: {scheme} is not supported; use unix:///path")
    host, colon, port = rest.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise InvalidArgument(f"-H {text}: write tcp://address:port")
    if not insecure:
        raise InvalidArgument(
            f"-H {text}: whoever reaches this port becomes root on this machine, and TLS is not "
            "supported yet: give --insecure-tcp if that is what you want"
        )
    return Address(host=host.strip("[]") or "127.0.0.1", port=int(port))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # raises instead of exiting
        raise InvalidArgument(f"{message}; see sampan daemon --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sampan daemon",
        description="Serve the Docker Engine API; containers live on when it stops.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "-H",
        "--host",
        action="append",
        default=[],
        metavar="ADDRESS",
        help=f"where to listen, may be repeated (default {DEFAULT_HOST})",
    )
    add("--insecure-tcp", action="store_true", help="allow tcp:// without TLS")
    add("--data-root", "-g", default="/var/lib/sampan", metavar="DIR", help="persistent state")
    add("--exec-root", default="/run/sampan", metavar="DIR", help="state lost at reboot")
    add(
        "-p",
        "--pidfile",
        default="",
        metavar="FILE",
        help="file for our process ID (default EXEC-ROOT/sampan.pid)",
    )
    add("-s", "--storage-driver", default="overlay2", choices=DRIVERS, help="how layers are kept")
    add("--cgroup-parent", default="/sampan", metavar="GROUP", help="parent of containers' groups")
    add("-G", "--group", default="", metavar="GROUP", help="group that owns the Unix socket")
    add("-D", "--debug", action="store_true", help="the same as --log-level debug")
    add("-l", "--log-level", default="info", choices=sorted(LEVELS), help="least level logged")
    add("-v", "--version", action="version", version=f"Sampan version {__version__}")
    return parser


def parse(arguments: list[str]) -> Options:
    """Raises InvalidArgument, NotSupported; SystemExit after --help and --version."""
    given = _parser().parse_args(arguments)
    hosts = tuple(parse_host(text, insecure=given.insecure_tcp) for text in given.host)
    parent: str = given.cgroup_parent
    if parent.endswith(".slice"):
        raise NotSupported("--cgroup-parent: systemd slices are not supported; give a path")
    exec_root = os.path.abspath(given.exec_root)
    return Options(
        hosts=hosts or (parse_host(DEFAULT_HOST, insecure=False),),
        data_root=os.path.abspath(given.data_root),
        exec_root=exec_root,
        pidfile=os.path.abspath(given.pidfile or f"{exec_root}/sampan.pid"),
        storage_driver=given.storage_driver,
        cgroup_parent="/" + parent.strip("/"),
        group=given.group,
        log_level="debug" if given.debug else given.log_level,
    )
