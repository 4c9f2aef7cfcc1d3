"""A container's own directory: ``hosts``, ``hostname`` and ``resolv.conf``, made at create.

They are bound over the image's files in /etc, so that names resolve as the container's network
says; see hosts(5), resolv.conf(5).
"""

from __future__ import annotations

import errno
import ipaddress
import os
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sampan.engine.config import HostConfig

__all__ = [
    "FILES",
    "edit_hosts",
    "hosts",
    "resolv_conf",
    "resolv_conf_inside",
    "write_file",
    "write_files",
]

FILES = ("hostname", "hosts", "resolv.conf")

RESOLVER = "127.0.0.11"
_MOST = 1024 * 1024
"""Bytes of an /etc/hosts that we change: it is the container's to write."""

_LOCAL = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def _plain(text: str, what: str) -> str:
    """``text`` if it is one word of a line: with a line's end it would write lines of its own."""
    if not text.isprintable() or " " in text:
        raise InvalidArgument(f"{what} {text!r}: blanks and control characters are not allowed")
    return text


def hosts(host: HostConfig, gateways: Sequence[str] = (), base: str = _LOCAL) -> str:
    """The text of ``/etc/hosts``. ``gateways``: what ``host-gateway`` means. Raises
    InvalidArgument."""
    lines = [base if not base or base.endswith("\n") else base + "\n"]
    for text in host.extra_hosts or ():
        name, colon, address = text.partition(":")
        if not colon:
            name, colon, address = text.partition("=")
        if not colon or not name:
            raise InvalidArgument(f"bad format for add-host: '{text}'; write name:address")
        if address == "host-gateway":
            if not gateways:
                raise InvalidArgument(
                    f"unable to derive the IP value for host-gateway of '{text}': there is no "
                    "default network; give an address"
                )
            lines += [f"{one}\t{_plain(name, 'add-host: name')}\n" for one in gateways]
            continue
        try:
            ipaddress.ip_address(address.strip("[]"))
        except ValueError as error:
            raise InvalidArgument(f"invalid IP address in add-host: '{address}'") from error
        lines.append(f"{address.strip('[]')}\t{_plain(name, 'add-host: name')}\n")
    return "".join(lines)


def resolv_conf(host: HostConfig, base: str) -> str:
    """``base`` is the machine's resolv.conf; what the user gave replaces its lines of that kind."""
    for address in host.dns:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise InvalidArgument(f"invalid IP address in dns: '{address}'") from error
    replaced: set[str] = set()
    if host.dns:
        replaced |= {"nameserver"}
    if host.dns_search:
        replaced |= {"search", "domain"}
    if host.dns_options:
        replaced |= {"options"}
    for what, words in (("dns-search", host.dns_search), ("dns-option", host.dns_options)):
        for word in words:
            _plain(word, what)
    lines = [line for line in base.splitlines() if (line.split() or [""])[0] not in replaced]
    lines += [f"nameserver {address}" for address in host.dns]
    if host.dns_search and host.dns_search != ["."]:
        lines.append("search " + " ".join(host.dns_search))
    if host.dns_options:
        lines.append("options " + " ".join(host.dns_options))
    return "\n".join(lines) + "\n"


def resolv_conf_inside(host: HostConfig) -> str:
    """That of a container with names of its networks: one server, which knows the others. Names
    without a dot are asked of it first."""
    base = _read("/etc/resolv.conf")
    given = [line.split()[1:] for line in base.splitlines() if line.split()[:1] == ["options"]]
    options = host.dns_options or [word for words in given for word in words]
    if not any(option.startswith("ndots:") for option in options):
        options = [*options, "ndots:0"]
    changes = {"dns": [RESOLVER], "dns_options": options}
    return resolv_conf(msgspec.structs.replace(host, **changes), base)


def reachable(base: str) -> str:
    """``base`` without name servers on this machine's loopback, where a container finds nobody:
    those behind systemd-resolved(8), or else the ones Docker falls back to."""
    kept = [line for line in base.splitlines() if not _is_local(line)]
    if not any(line.startswith("nameserver") for line in kept):
        behind = [line for line in _read(_BEHIND).splitlines() if not _is_local(line)]
        servers = [line for line in behind if line.startswith("nameserver")]
        kept += servers or [f"nameserver {address}" for address in _FALLBACK]
    return "\n".join(kept) + "\n"


_BEHIND = "/run/systemd/resolve/resolv.conf"
_FALLBACK = ("8.8.8.8", "8.8.4.4")


def _is_local(line: str) -> bool:
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return False
    try:
        return ipaddress.ip_address(words[1].partition("%")[0]).is_loopback
    except ValueError:
        return False


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def write_files(
    directory: str, host: HostConfig, hostname: str, gateways: Sequence[str] = ()
) -> None:
    """Write the three files into an existing directory."""
    shared = host.network_mode == "host"
    base = _read("/etc/resolv.conf")
    if not shared and host.network_mode != "none":
        base = reachable(base)
    texts = {
        "hostname": _plain(hostname, "hostname") + "\n",
        "hosts": hosts(host, gateways, _read("/etc/hosts") if shared else _LOCAL),
        "resolv.conf": resolv_conf(host, base),
    }
    for name in FILES:
        write_file(f"{directory}/{name}", texts[name])


def edit_hosts(
    path: str,
    *,
    add: Sequence[str] = (),
    remove: Collection[str] = (),
    renewed: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Lines of an /etc/hosts come and go as the container runs; what it wrote itself stays.

    ``remove``: addresses. ``renewed``: the lines of a name, instead of those that begin with it.
    Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(fd, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read(_MOST + 1)
    if len(text) > _MOST:
        raise OSError(errno.EFBIG, f"longer than {_MOST} bytes", path)
    lines: list[str] = []
    left = dict(renewed or {})
    for line in text.splitlines(keepends=True):
        address, _, names = line.partition("\t")
        name = (names.split() or [""])[0]
        if name in (renewed or ()):
            lines += left.pop(name, ())
        elif address not in remove:
            lines.append(line)
    fresh = "".join([*lines, *add])
    if fresh != text:
        write_file(path, fresh)


def write_file(path: str, text: str) -> None:
    """One of the three; in place, for it may be mounted."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o644)
    try:
        os.write(descriptor, text.encode(errors="surrogateescape"))
        os.fchmod(descriptor, 0o644)
    finally:
        os.close(descriptor)
