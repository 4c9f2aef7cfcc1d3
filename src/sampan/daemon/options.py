"""What the daemon was told, checked and complete: the values behind ``keys.KEYS``.

Defaults of containers are held to the rules of containers themselves, here and not at the first
container: a daemon that starts has a configuration that works.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.daemon.configuration import merge, read_arguments
from sampan.engine.settings import Defaults, Settings, Transfers
from sampan.engine.spec import SHM_SIZE
from sampan.errors import InvalidArgument, NotSupported, SampanError
from sampan.network.default import subnets_of
from sampan.network.types import Network, Pool
from sampan.network.types import Options as NetworkOptions

if TYPE_CHECKING:
    from sampan.daemon.configuration import Given

__all__ = ["DEFAULT_HOST", "Address", "Options", "Tls", "parse", "parse_host", "resolve"]

DEFAULT_HOST = "unix:///run/sampan/sampan.sock"
_PORTS = {False: 2375, True: 2376}


class Address(msgspec.Struct, frozen=True):
    """Where to listen: a Unix socket's path, a host and port, or what was handed to us (``fd``:
    ``*`` for all of it, a descriptor's number or name).
    """

    path: str = ""
    host: str = ""
    port: int = 0
    fd: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        if self.fd:
            return f"fd://{self.fd}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """Files in PEM; without ``verify`` any client is let in."""

    verify: bool
    ca: str
    certificate: str
    key: str


class Options(msgspec.Struct, frozen=True, kw_only=True):
    hosts: tuple[Address, ...]
    pidfile: str
    group: str
    log_level: str
    log_format: str
    shutdown_timeout: int
    settings: Settings
    tls: Tls | None = None
    insecure_tcp: bool = False
    metrics: Address | None = None

    @property
    def tcp_allowed(self) -> bool:
        """Clients are checked, or it was said that they need not be."""
        return self.insecure_tcp or (self.tls is not None and self.tls.verify)


def parse_host(text: str, *, insecure: bool, tls: Tls | None = None) -> Address:
    """``unix:///path``, ``tcp://host:port`` or ``fd://``. Raises InvalidArgument, NotSupported."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise InvalidArgument(f"-H {text}: write unix:///path, tcp://address:port or fd://")
    if scheme == "unix":
        path = rest or DEFAULT_HOST.removeprefix("unix://")
        if not path.startswith("/"):
            raise InvalidArgument(f"-H {text}: the socket's path must be absolute: unix:///path")
        return Address(path=path)
    if scheme == "fd":
        return Address(fd=rest or "*")
    if scheme != "tcp":
        raise NotSupported(f"-H {text}: {scheme} is not supported; use unix:///path")
    address = _host_port(text, rest, _PORTS[tls is not None])
    if not insecure and (tls is None or not tls.verify):
        raise InvalidArgument(unprotected(f"-H {text}"))
    return address


def unprotected(what: str) -> str:
    """Why a socket is refused that was not asked for twice."""
    return (
        f"{what}: whoever reaches this port becomes root on this machine: give --tlsverify, and "
        "certificates, or --insecure-tcp if that is what you want"
    )


def _host_port(text: str, rest: str, default: int) -> Address:
    host, colon, port = rest.rstrip("/").rpartition(":")
    if not colon or "]" in port:
        host, port = rest.rstrip("/"), str(default)
    if not port.isdecimal() or not 0 <= int(port) < 65536:
        raise InvalidArgument(f"-H {text}: write tcp://address:port")
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise InvalidArgument(f"-H {text}: write an IPv6 address in brackets: tcp://[::1]:port")
    return Address(host=host.strip("[]") or "127.0.0.1", port=int(port))


def _tls(values: dict[str, Any]) -> Tls | None:
    if not (values["tls"] or values["tlsverify"]):
        for name in ("tlscacert", "tlscert", "tlskey"):
            if values[name]:
                raise InvalidArgument(f"{name} without tls or tlsverify protects nothing")
        return None
    place = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    tls = Tls(
        verify=values["tlsverify"],
        ca=values["tlscacert"] or f"{place}/ca.pem",
        certificate=values["tlscert"] or f"{place}/cert.pem",
        key=values["tlskey"] or f"{place}/key.pem",
    )
    needed = [tls.certificate, tls.key, *([tls.ca] if tls.verify else [])]
    for path in needed:
        if not os.path.isfile(path):
            raise InvalidArgument(f"TLS needs {path}: no such file")
    return tls


def _seccomp(profile: str) -> str:
    """The profile as ``SecurityOpt`` has it. Raises InvalidArgument."""
    if profile in ("", "builtin"):
        return ""
    if profile == "unconfined":
        return profile
    from sampan.engine.seccomp import profile_for

    try:
        with open(profile, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"seccomp-profile {profile}: {error}") from error
    profile_for(text, (), privileged=False)
    return text


def _defaults(values: dict[str, Any]) -> Defaults:
    return Defaults(
        log_driver=values["log-driver"] or "json-file",
        log_options=values["log-opts"],
        init=values["init"],
        # What the engine does by itself stays unsaid.
        shm_size=0 if values["default-shm-size"] == SHM_SIZE else values["default-shm-size"],
        ulimits={name.lower(): limit for name, limit in values["default-ulimits"].items()},
        seccomp=_seccomp(values["seccomp-profile"]),
        no_new_privileges=values["no-new-privileges"],
        ipc_mode=values["default-ipc-mode"].replace("private", ""),
        cgroupns_mode=values["default-cgroupns-mode"].replace("private", ""),
        dns=tuple(values["dns"]),
        dns_options=tuple(values["dns-opts"]),
        dns_search=tuple(values["dns-search"]),
    )


def _check(defaults: Defaults) -> None:
    """A container with these defaults must be one that can be made."""
    from sampan.engine import log_drivers
    from sampan.engine.config import HostConfig, LogConfig
    from sampan.engine.files import resolv_conf
    from sampan.engine.resources import rlimits

    try:
        resolv_conf(defaults.resolved(HostConfig()), "")
        rlimits(defaults.applied(HostConfig()))
        log_drivers.check(LogConfig(type=defaults.log_driver, config=defaults.log_options))
    except SampanError as error:
        raise InvalidArgument(f"the defaults of containers: {error.message}") from error


def _transfers(values: dict[str, Any]) -> Transfers:
    from sampan.registry.policy import check_insecure, check_mirror

    return Transfers(
        insecure=tuple(check_insecure(text) for text in values["insecure-registries"]),
        mirrors=tuple(check_mirror(text) for text in values["registry-mirrors"]),
        downloads=values["max-concurrent-downloads"],
        uploads=values["max-concurrent-uploads"],
        attempts=values["max-download-attempts"],
        http_proxy=values["http-proxy"] or _environment("http_proxy"),
        https_proxy=values["https-proxy"] or _environment("https_proxy"),
        no_proxy=values["no-proxy"] or _environment("no_proxy"),
    )


_OF_THE_BRIDGE = (
    "bip", "bip6", "fixed-cidr", "fixed-cidr-v6", "default-gateway", "default-gateway-v6", "ip",
    "ipv6",
)  # fmt: skip


def _network(values: dict[str, Any]) -> NetworkOptions:
    pools = tuple(Pool(base=base, size=size) for base, size in values["default-address-pools"])
    bridge: str = values["bridge"]
    if len(bridge) > 15 or "/" in bridge or bridge != "".join(bridge.split()):
        raise InvalidArgument(f"bridge {bridge}: a link's name has at most 15 characters")
    if bridge == "none":
        for name in _OF_THE_BRIDGE:
            if values[name]:
                raise InvalidArgument(f"bridge none and {name}: there is no bridge to have it")
    firewall = values["firewall"] if values["iptables"] else "none"
    gateways = [*values["host-gateway-ips"], values["host-gateway-ip"]]
    found = NetworkOptions(
        bridge=bridge,
        bip=values["bip"],
        bip6=values["bip6"],
        fixed=values["fixed-cidr"],
        fixed6=values["fixed-cidr-v6"],
        router=values["default-gateway"],
        router6=values["default-gateway-v6"],
        ipv6=values["ipv6"],
        bind="" if values["ip"] in ("0.0.0.0", "::") else values["ip"],
        forward=values["ip-forward"],
        guard=not values["ip-forward-no-drop"],
        host_gateways=tuple(one for one in gateways if one),
        more=tuple(values["default-network-opts"]),
        mtu=values["mtu"],
        icc=values["icc"],
        masquerade=values["ip-masq"],
        firewall=firewall,
        **({"pools": pools} if pools else {}),
    )
    subnets_of(found)
    if found.more:
        from sampan.network.creation import option_of

        for driver, name, value in found.more:
            if driver not in ("bridge", "macvlan", "ipvlan"):
                raise InvalidArgument(f"default-network-opt {driver}: no such driver of networks")
            option_of(Network(id="", name="default-network-opt", driver=driver), name, value)
    return found


def _environment(name: str) -> str:
    """A proxy's variable, in either spelling."""
    return os.environ.get(name.upper()) or os.environ.get(name, "")


def resolve(values: dict[str, Any]) -> Options:
    """Raises InvalidArgument, NotSupported."""
    tls = _tls(values)
    insecure = values["insecure-tcp"]
    hosts = [parse_host(text, insecure=insecure, tls=tls) for text in values["hosts"]]
    parent: str = values["cgroup-parent"]
    if parent.endswith(".slice"):
        raise NotSupported("cgroup-parent: systemd slices are not supported; give a path")
    for label in values["labels"]:
        if not label.partition("=")[0] or "=" not in label:
            raise InvalidArgument(f"label {label}: write name=value")
    for name, wanted in values["features"].items():
        if wanted:
            raise NotSupported(f"features: {name} is not a switch of this version")
    defaults = _defaults(values)
    _check(defaults)
    exec_root = os.path.abspath(values["exec-root"])
    debug = values["debug"] or values["log-level"] == "debug"
    metrics = values["metrics-addr"]
    return Options(
        hosts=tuple(hosts) or (parse_host(DEFAULT_HOST, insecure=False),),
        pidfile=os.path.abspath(values["pidfile"] or f"{exec_root}/sampan.pid"),
        group=values["group"],
        log_level="debug" if debug else values["log-level"],
        log_format=values["log-format"],
        shutdown_timeout=values["shutdown-timeout"],
        tls=tls,
        insecure_tcp=insecure,
        metrics=_host_port(f"metrics-addr {metrics}", metrics, 9323) if metrics else None,
        settings=Settings(
            data_root=os.path.abspath(values["data-root"]),
            exec_root=exec_root,
            storage_driver=values["storage-driver"],
            cgroup_parent="/" + parent.strip("/"),
            debug=debug,
            labels=tuple(values["labels"]),
            exposed=tuple(
                str(host) for host in hosts if host.host and (tls is None or not tls.verify)
            ),
            seccomp_profile=values["seccomp-profile"] or "builtin",
            defaults=defaults,
            transfers=_transfers(values),
            network=_network(values),
        ),
    )


def parse(arguments: list[str]) -> tuple[Given, Options]:
    """Raises InvalidArgument, NotSupported, NotFound."""
    given = read_arguments(arguments)
    return given, resolve(merge(given))
