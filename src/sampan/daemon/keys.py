"""Every setting of the daemon: dockerd's names, as flags and as keys of the configuration file.

One table. A setting is acted on, or it is refused by name with the reason; of some, only the value
that describes what we do anyway is accepted (``only``). ``reload`` marks what SIGHUP takes up.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, NamedTuple

from sampan.engine.log import FORMATS, LEVELS
from sampan.engine.settings import parse_size
from sampan.errors import InvalidArgument
from sampan.storage.drivers import DRIVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["KEYS", "Key", "Kind"]


class Kind(NamedTuple):
    """``flag`` reads one flag's text, ``file`` a decoded value; both raise ValueError with what
    they expected. A repeated flag of an ``many`` kind adds to the value.
    """

    metavar: str
    flag: Callable[[str], Any]
    file: Callable[[object], Any]
    many: bool = False


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _true(text: str) -> bool:
    if text.lower() in ("true", "1", "t"):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise ValueError("true or false")


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _number(text: str) -> int:
    if not text.removeprefix("-").isdecimal():
        raise ValueError("a number")
    return int(text)


def _int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a number")
    return value


def _positive(value: int) -> int:
    if value < 1:
        raise ValueError("a number of 1 or more")
    return value


def _natural(value: int) -> int:
    if value < 0:
        raise ValueError("a number of 0 or more")
    return value


def _bytes(text: str) -> int:
    try:
        return parse_size(text)
    except InvalidArgument as error:
        raise ValueError("a size such as 64m") from error


def _size(value: object) -> int:
    return _bytes(value) if isinstance(value, str) else _positive(_int(value))


def _list(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of texts")
    return list(value)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError("name=value")
    return name, value


def _map(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("names with texts")
    return dict(value)


def _switch(text: str) -> tuple[str, bool]:
    name, equals, value = text.partition("=")
    return name, _true(value) if equals else True


def _switches(value: object) -> dict[str, bool]:
    if not isinstance(value, dict) or not all(isinstance(item, bool) for item in value.values()):
        raise ValueError("names with true or false")
    return dict(value)


def _limit(text: str) -> tuple[str, tuple[int, int]]:
    name, _, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    try:
        return name, (int(soft), int(hard if colon else soft))
    except ValueError as error:
        raise ValueError("name=soft[:hard]") from error


def _limits(value: object) -> dict[str, tuple[int, int]]:
    try:
        if isinstance(value, dict):
            return {
                name: (_int(item.get("Soft", 0)), _int(item.get("Hard", 0)))
                for name, item in value.items()
            }
    except (AttributeError, ValueError) as error:
        raise ValueError('{"name": {"Name": …, "Soft": …, "Hard": …}}') from error
    raise ValueError('{"name": {"Name": …, "Soft": …, "Hard": …}}')


def _any(value: object) -> object:
    return value


def _address(text: str) -> str:
    ipaddress.ip_address(text)
    return text


def _pool(text: str) -> tuple[str, int]:
    """dockerd's ``base=172.30.0.0/16,size=24``."""
    values = dict(part.partition("=")[::2] for part in text.split(","))
    return _base_and_size(values.get("base"), values.get("size"))


def _pools(value: object) -> list[tuple[str, int]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError('[{"base": …, "size": …}]')
    return [_base_and_size(item.get("base"), item.get("size")) for item in value]


def _base_and_size(base: object, size: object) -> tuple[str, int]:
    try:
        net = ipaddress.ip_network(str(base))
        length = int(str(size))
    except ValueError as error:
        raise ValueError("a base, as 172.30.0.0/16, and a size, as 24") from error
    if not net.prefixlen <= length <= net.max_prefixlen - 2:
        raise ValueError(f"a size of {net.prefixlen} to {net.max_prefixlen - 2} for base {net}")
    return str(net), length


def _of(version: int, example: str, read: Callable[[str], Any]) -> Callable[[str], str]:
    """A reader of addresses, or subnets, of one version of IP."""

    def check(text: str) -> str:
        try:
            found = read(text)
        except ValueError:
            found = None
        if found is None or found.version != version or ("/" in example) != ("/" in text):
            raise ValueError(f"an IPv{version} {example}")
        return str(found)

    return check


def _ip(metavar: str, check: Callable[[str], str]) -> Kind:
    return Kind(metavar, check, lambda value: check(_text(value)))


def _option(text: str) -> list[tuple[str, str, str]]:
    driver, _, rest = text.partition("=")
    name, equals, value = rest.partition("=")
    if not driver or not name or not equals:
        raise ValueError("driver=option=value")
    return [(driver, name, value)]


def _options(value: object) -> list[tuple[str, str, str]]:
    if not isinstance(value, dict):
        raise ValueError('{"driver": {"option": "value"}}')
    return [
        (driver, name, text)
        for driver, given in value.items()
        for name, text in _map(given).items()
    ]


def _choice(metavar: str, values: Collection[str]) -> Kind:
    def check(text: str) -> str:
        if text not in values:
            raise ValueError(" or ".join(values))
        return text

    return Kind(metavar, check, lambda value: check(_text(value)))


TEXT = Kind("TEXT", _text, _text)
PATH = Kind("FILE", _text, _text)
BOOL = Kind("", _true, _bool)
COUNT = Kind("NUMBER", lambda text: _positive(_number(text)), lambda value: _positive(_int(value)))
INT = Kind("NUMBER", lambda text: _natural(_number(text)), lambda value: _natural(_int(value)))
SIZE = Kind("BYTES", _bytes, _size)
LIST = Kind("VALUE", lambda text: [text], _list, many=True)
ADDRESSES = Kind(
    "ADDRESS",
    lambda text: [_address(text)],
    lambda value: [_address(item) for item in _list(value)],
    many=True,
)
MAP = Kind("NAME=VALUE", lambda text: dict([_pair(text)]), _map, many=True)
SWITCHES = Kind("NAME[=BOOL]", lambda text: dict([_switch(text)]), _switches, many=True)
LIMITS = Kind("NAME=SOFT[:HARD]", lambda text: dict([_limit(text)]), _limits, many=True)
POOLS = Kind("base=SUBNET,size=LENGTH", lambda text: [_pool(text)], _pools, many=True)
BIP = _ip(
    "ADDRESS/LENGTH",
    _of(4, "address with its prefix length, as 172.30.0.1/24", ipaddress.ip_interface),
)
BIP6 = _ip(
    "ADDRESS/LENGTH",
    _of(6, "address with its prefix length, as fd00:1::1/64", ipaddress.ip_interface),
)
CIDR = _ip("SUBNET", _of(4, "subnet, as 172.30.0.0/24", ipaddress.ip_network))
CIDR6 = _ip("SUBNET", _of(6, "subnet, as fd00:1::/64", ipaddress.ip_network))
IP4 = _ip("ADDRESS", _of(4, "address", ipaddress.ip_address))
IP6 = _ip("ADDRESS", _of(6, "address", ipaddress.ip_address))
NETWORK_OPTIONS = Kind("DRIVER=OPTION=VALUE", _option, _options, many=True)
ANY = Kind("VALUE", lambda text: [text], _any, many=True)
ONE = Kind("VALUE", _text, _any)


class Key(NamedTuple):
    """``name`` is the file's; ``flag`` the long flag where it has another name, empty for none.

    ``why`` refuses every value that is not in ``only``.
    """

    name: str
    kind: Kind
    default: Any = None
    help: str = ""
    flag: str | None = None
    short: str = ""
    reload: bool = False
    why: str = ""
    only: tuple[object, ...] = ()

    @property
    def long(self) -> str:
        return self.name if self.flag is None else self.flag


def _refused(
    why: str, *names: str, kind: Kind = ONE, flag: str | None = None, only: tuple[object, ...] = ()
) -> list[Key]:
    return [Key(name, kind, flag=flag, why=why, only=only) for name in names]


_NETWORKS = "this version's networks do not have it"
_SWARM = "this engine has no swarm mode"
_CONTAINERD = "this engine runs containers itself, without containerd"
_RUNTIMES = "containers are run by this engine's own runtime, sampan"
_REALTIME = "real-time scheduling has no default here: set it per container"

KEYS: tuple[Key, ...] = (
    Key("hosts", LIST, [], "where to listen: unix://PATH, tcp://HOST:PORT, fd://", "host", "H"),
    Key("group", TEXT, "", "group that owns the Unix socket", short="G"),
    Key("insecure-tcp", BOOL, False, "serve TCP that anybody who reaches it may use"),
    Key("data-root", PATH, "/var/lib/sampan", "persistent state", short="g"),
    Key("exec-root", PATH, "/run/sampan", "state that a reboot may take"),
    Key("pidfile", PATH, "", "our process ID (EXEC-ROOT/sampan.pid)", short="p"),
    Key("storage-driver", _choice("NAME", DRIVERS), "overlay2", "how layers are kept", short="s"),
    Key("cgroup-parent", TEXT, "/sampan", "parent of the containers' control groups"),
    Key("debug", BOOL, False, "the same as log-level debug", short="D", reload=True),
    Key("log-level", _choice("LEVEL", LEVELS), "info", "the least level logged", short="l"),
    Key("log-format", _choice("FORMAT", FORMATS), "text", "how our own log is written"),
    Key("raw-logs", BOOL, True, "", why="our log has full times and no colours", only=(True,)),
    Key("labels", LIST, [], "NAME=VALUE that this daemon shows", "label", reload=True),
    Key("features", SWITCHES, {}, "switches of dockerd's; all are off", "feature", reload=True),
    Key("shutdown-timeout", INT, 15, "seconds requests have to end", reload=True),
    Key("live-restore", BOOL, True, "", why="containers always outlive this daemon", only=(True,)),
    Key("metrics-addr", TEXT, "", "HOST:PORT to serve Prometheus metrics at"),
    # TLS
    Key("tls", BOOL, False, "TLS on TCP; implied by tlsverify"),
    Key("tlsverify", BOOL, False, "TLS, and clients must show a certificate of our CA"),
    Key("tlscacert", PATH, "", "the CA's certificate (ca.pem)"),
    Key("tlscert", PATH, "", "our certificate (cert.pem)"),
    Key("tlskey", PATH, "", "its key (key.pem)"),
    # containers' defaults
    Key("log-driver", TEXT, "json-file", "log driver of containers"),
    Key("log-opts", MAP, {}, "its options", "log-opt"),
    Key("default-ulimits", LIMITS, {}, "limits of containers", "default-ulimit"),
    Key("default-shm-size", SIZE, 64 * 1024 * 1024, "size of /dev/shm"),
    Key("default-ipc-mode", _choice("MODE", ("private", "shareable")), "private", "IPC namespace"),
    Key("default-cgroupns-mode", _choice("MODE", ("private", "host")), "private", "its namespace"),
    Key("init", BOOL, False, "an init in each container that reaps and passes signals on"),
    Key("no-new-privileges", BOOL, False, "containers' processes gain nothing by execve"),
    Key("seccomp-profile", PATH, "builtin", "a profile's file, builtin, or unconfined"),
    Key("dns", ADDRESSES, [], "name servers of containers"),
    Key("dns-opts", LIST, [], "their resolver's options", "dns-opt"),
    Key("dns-search", LIST, [], "their search domains"),
    # networks
    Key("bridge", TEXT, "", "the default network's bridge; none: no such network", short="b"),
    Key("bip", BIP, "", "IPv4 address of that bridge, and its subnet"),
    Key("ipv6", BOOL, False, "whether it has IPv6 too, of a subnet of our own where none is given"),
    Key("bip6", BIP6, "", "its IPv6 address"),
    Key("fixed-cidr", CIDR, "", "where containers on it have their IPv4 addresses"),
    Key("fixed-cidr-v6", CIDR6, "", "where they have their IPv6 addresses"),
    Key("default-gateway", IP4, "", "where their default route leads, if not to the bridge"),
    Key("default-gateway-v6", IP6, "", "the same for IPv6"),
    Key("ip", _ip("ADDRESS", _address), "", "where their ports are published (everywhere)"),
    Key("mtu", INT, 0, "MTU of its links (the uplink's)"),
    Key("icc", BOOL, True, "whether containers on it reach one another"),
    Key("ip-masq", BOOL, True, "whether they leave with an address of this machine"),
    Key("default-address-pools", POOLS, [], "where networks get their subnets",
        "default-address-pool"),
    Key("default-network-opts", NETWORK_OPTIONS, [], "options of networks that are made",
        "default-network-opt"),
    Key("host-gateway-ips", ADDRESSES, [], "what --add-host's host-gateway means (the gateway)",
        "host-gateway-ip"),
    Key("host-gateway-ip", _ip("ADDRESS", _address), "", "one of them", flag=""),
    Key("ip-forward", BOOL, True, "have the machine forward packets"),
    Key("ip-forward-no-drop", BOOL, False, "forward others' too where that is our doing"),
    Key("firewall", _choice("NAME", ("nftables", "none")), "nftables",
        "who keeps the firewall's rules; none: you do"),
    Key("iptables", BOOL, True, "false is the same as firewall none"),
    # images
    Key("insecure-registries", LIST, [], "HOST[:PORT] or network without verified TLS",
        "insecure-registry", reload=True),
    Key("registry-mirrors", LIST, [], "URL asked first", "registry-mirror", reload=True),
    Key("max-concurrent-downloads", COUNT, 3, "layers pulled at a time", reload=True),
    Key("max-concurrent-uploads", COUNT, 5, "layers pushed at a time", reload=True),
    Key("max-download-attempts", COUNT, 5, "tries for each layer", reload=True),
    Key("http-proxy", TEXT, "", "proxy for registries"),
    Key("https-proxy", TEXT, "", "proxy for registries"),
    Key("no-proxy", TEXT, "", "hosts reached without a proxy, with commas"),
    Key("proxies", MAP, {}, flag=""),
    # what says what we do anyway
    *_refused(_RUNTIMES, "default-runtime", only=("sampan",)),
    *_refused("use native.cgroupdriver=cgroupfs", "exec-opts", kind=LIST, flag="exec-opt",
              only=(["native.cgroupdriver=cgroupfs"], [])),
    *_refused("nothing here is experimental", "experimental", kind=BOOL, only=(False,)),
    *_refused("this kernel's policy is not ours to use", "selinux-enabled", kind=BOOL,
              only=(False,)),
    *_refused("rules are set with nf_tables' own messages", "firewall-backend", only=("nftables",)),
    *_refused("IPv6 is in the same table: see --firewall", "ip6tables", kind=BOOL, only=(True,)),
    *_refused("there is no proxy: the kernel does it", "userland-proxy", kind=BOOL, only=(False,)),
    # refused
    *_refused(_RUNTIMES, "runtimes", flag="add-runtime", only=({},)),
    *_refused("publish the ports that others are to reach", "allow-direct-routing", kind=BOOL,
              only=(False,)),
    *_refused(_NETWORKS, "bridge-accept-fwmark"),
    *_refused(_SWARM, "network-control-plane-mtu", kind=INT, only=(0, 1500)),
    *_refused("there is no proxy: the kernel does it", "userland-proxy-path"),
    *_refused(_CONTAINERD, "containerd", "containerd-namespace"),
    *_refused(_CONTAINERD, "containerd-plugin-namespace", flag="containerd-plugins-namespace"),
    *_refused(_CONTAINERD, "cri-containerd", kind=BOOL, only=(False,)),
    *_refused(_REALTIME, "cpu-rt-period", "cpu-rt-runtime", only=("0", 0)),
    *_refused(_SWARM, "swarm-default-advertise-addr"),
    *_refused(_SWARM, "node-generic-resources", flag="node-generic-resource", kind=ANY, only=([],)),
    *_refused("there are no plugins here", "authorization-plugins", flag="authorization-plugin",
              kind=ANY, only=([],)),
    *_refused("name each device with --device", "cdi-spec-dirs", flag="cdi-spec-dir", kind=ANY,
              only=([],)),
    *_refused("the init of --init is this engine's own", "init-path"),
    *_refused("no storage driver here takes options", "storage-opts", flag="storage-opt", kind=ANY,
              only=([],)),
    *_refused("user namespaces are not mapped for the whole daemon", "userns-remap", only=("",)),
    *_refused("the daemon needs root in this version", "rootless", kind=BOOL, only=(False,)),
    *_refused("this version does not build images", "builder", flag="", only=({},)),
    *_refused("this version's least API version is 1.24", "min-api-version", flag="",
              only=("1.24",)),
    *_refused("give the daemon's score to who starts it", "oom-score-adjust", flag="", only=(0,)),
    *_refused("every layer may be pushed", "allow-nondistributable-artifacts", kind=ANY,
              only=([],)),
)  # fmt: skip
