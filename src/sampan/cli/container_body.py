"""The body of POST /containers/create from the flags of ``run`` and ``create``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.cli.container_values import (
    capabilities,
    environment,
    health,
    labels,
    limits,
    pairs,
    resources,
    security,
)
from sampan.cli.flags import UsageError
from sampan.cli.mount_values import mounts, volumes
from sampan.cli.network_values import endpoints, ports

if TYPE_CHECKING:
    from sampan.cli.flags import Values

__all__ = ["create_body"]

_STREAMS = ("stdin", "stdout", "stderr")
_TEXTS = {
    "CgroupParent": "cgroup-parent",
    "CgroupnsMode": "cgroupns",
    "IpcMode": "ipc",
    "PidMode": "pid",
    "Runtime": "runtime",
    "UsernsMode": "userns",
    "UTSMode": "uts",
    "VolumeDriver": "volume-driver",
}
_LISTS = {
    "DeviceCgroupRules": "device-cgroup-rule",
    "DnsSearch": "dns-search",
    "GroupAdd": "group-add",
    "Links": "link",
    "VolumesFrom": "volumes-from",
}


def create_body(flags: Values, variables: list[str] | None = None) -> dict[str, Any]:
    """The request; ``variables`` are the environment that the user's own is put behind.

    The arguments are the image and its command. Raises UsageError.
    """
    image, *command = flags.arguments
    interactive, detached = flags.flag("interactive"), flags.flag("detach")
    attached = [name.lower() for name in flags.items("attach")]
    for name in attached:
        if name not in _STREAMS:
            raise UsageError(f"--attach: {name}: expected stdin, stdout or stderr")
    everything = not attached and not detached
    exposed, bindings = ports(flags)
    binds, anonymous = volumes(flags)
    mode, networks = endpoints(flags)
    body: dict[str, Any] = {
        "Image": image,
        "Cmd": command or None,
        "Env": [*(variables or []), *environment(flags)] or None,
        "Labels": labels(flags),
        "Hostname": flags.text("hostname"),
        "Domainname": flags.text("domainname"),
        "User": flags.text("user"),
        "WorkingDir": flags.text("workdir"),
        "Tty": flags.flag("tty"),
        "OpenStdin": interactive,
        "StdinOnce": interactive and not detached,
        "AttachStdin": (everything and interactive) or "stdin" in attached,
        "AttachStdout": everything or "stdout" in attached,
        "AttachStderr": everything or "stderr" in attached,
        "HostConfig": _host_config(flags, mode, binds, bindings),
    }
    optional: dict[str, Any] = {
        "ExposedPorts": exposed,
        "Healthcheck": health(flags),
        "NetworkingConfig": {"EndpointsConfig": networks} if networks else None,
        "StopSignal": flags.text("stop-signal"),
        "Volumes": anonymous,
    }
    body |= {field: value for field, value in optional.items() if value}
    if flags.given("entrypoint"):
        body["Entrypoint"] = [flags.text("entrypoint")]
    if flags.given("stop-timeout"):
        body["StopTimeout"] = flags.number("stop-timeout")
    return body


def _host_config(
    flags: Values, mode: str, binds: list[str], bindings: dict[str, Any]
) -> dict[str, Any]:
    if flags.flag("rm") and flags.text("restart", "no") not in ("", "no"):
        raise UsageError("--restart and --rm contradict each other")
    if flags.given("disable-content-trust") and not flags.flag("disable-content-trust"):
        raise UsageError("--disable-content-trust=false: signatures by Notary are not supported")
    config: dict[str, Any] = {
        "NetworkMode": mode,
        "AutoRemove": flags.flag("rm"),
        "Privileged": flags.flag("privileged"),
        "ReadonlyRootfs": flags.flag("read-only"),
        "PublishAllPorts": flags.flag("publish-all"),
        "LogConfig": _log_config(flags),
        **limits(flags),
        **resources(flags),
        **security(flags.items("security-opt")),
        **capabilities(flags),
    }
    config |= {field: flags.text(name) for field, name in _TEXTS.items() if flags.given(name)}
    config |= {field: flags.items(name) for field, name in _LISTS.items() if flags.given(name)}
    for field, name in (("Init", "init"), ("OomKillDisable", "oom-kill-disable")):
        if flags.given(name):
            config[field] = flags.flag(name)
    for field, name in (("OomScoreAdj", "oom-score-adj"), ("ShmSize", "shm-size")):
        if flags.given(name):
            config[field] = flags.number(name)
    optional: dict[str, Any] = {
        "Annotations": pairs(flags.items("annotation"), "--annotation"),
        "Binds": binds,
        "Dns": [_address(item) for item in flags.items("dns")],
        "DnsOptions": flags.items("dns-option"),
        "ExtraHosts": [_extra_host(item) for item in flags.items("add-host")],
        "Mounts": mounts(flags.items("mount")),
        "PortBindings": bindings,
        "StorageOpt": _settings(flags, "storage-opt"),
        "Sysctls": _settings(flags, "sysctl"),
        "Tmpfs": dict(item.partition(":")[::2] for item in flags.items("tmpfs")),
    }
    return config | {field: value for field, value in optional.items() if value}


def _log_config(flags: Values) -> dict[str, Any]:
    options = pairs(flags.items("log-opt"), "--log-opt")
    if flags.text("log-driver") == "none" and options:
        raise UsageError("--log-opt: the log driver none has no options")
    return {"Type": flags.text("log-driver"), "Config": options}


def _settings(flags: Values, name: str) -> dict[str, str]:
    """``key=value`` each, where a key alone says nothing."""
    for item in flags.items(name):
        if "=" not in item:
            raise UsageError(f"--{name}: {item}: expected key=value")
    return pairs(flags.items(name), f"--{name}")


def _address(text: str) -> str:
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except OSError:
            continue
        return text
    raise UsageError(f"--dns: {text}: expected an IP address")


def _extra_host(item: str) -> str:
    """``host:address`` or ``host=address``, sent as the former."""
    name, separator, address = item.partition("=" if "=" in item.partition(":")[0] else ":")
    if not separator or not name or not address:
        raise UsageError(f"--add-host: {item}: expected host:address")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return f"{name}:{address}"
