"""The flags of ``run`` and ``create``, and the request body they make.

What the daemon does not do yet it refuses by name; flags refused here have no field to send.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from sampan.cli.flags import Flag, Values
from sampan.errors import InvalidArgument

__all__ = ["CREATE", "RUN", "create_body", "environment", "warn"]

_WINDOWS = "only means something to Windows containers"

CREATE = [
    Flag("add-host", "list", "Add a custom host-to-IP mapping (host:ip)"),
    Flag("annotation", "list", "Add an annotation to the container", hint="map"),
    Flag("attach", "list", "Attach to STDIN, STDOUT or STDERR", short="a"),
    Flag("blkio-weight", "int", "Block IO weight, 10 to 1000, or 0 to disable", hint="uint16"),
    Flag("cap-add", "list", "Add Linux capabilities"),
    Flag("cap-drop", "list", "Drop Linux capabilities"),
    Flag("cgroup-parent", "str", "Parent cgroup for the container"),
    Flag("cgroupns", "str", "Cgroup namespace to use (host|private)"),
    Flag("cidfile", "str", "Write the container ID to the file"),
    Flag("cpu-count", "int", "", refused=_WINDOWS),
    Flag("cpu-percent", "int", "", refused=_WINDOWS),
    Flag("cpu-period", "int", "CPU CFS period in microseconds"),
    Flag("cpu-quota", "int", "CPU CFS quota in microseconds"),
    Flag("cpu-rt-period", "int", "CPU real-time period in microseconds"),
    Flag("cpu-rt-runtime", "int", "CPU real-time runtime in microseconds"),
    Flag("cpu-shares", "int", "CPU shares (relative weight)", short="c"),
    Flag("cpus", "str", "Number of CPUs", hint="decimal"),
    Flag("cpuset-cpus", "str", "CPUs in which to allow execution (0-3, 0,1)"),
    Flag("cpuset-mems", "str", "MEMs in which to allow execution (0-3, 0,1)"),
    Flag("device", "list", "Add a host device to the container"),
    Flag("device-cgroup-rule", "list", "Add a rule to the cgroup allowed devices list"),
    Flag("dns", "list", "Set custom DNS servers"),
    Flag("dns-option", "list", "Set DNS options"),
    Flag("dns-search", "list", "Set custom DNS search domains"),
    Flag("domainname", "str", "Container NIS domain name"),
    Flag("entrypoint", "str", "Overwrite the default ENTRYPOINT of the image"),
    Flag("env", "list", "Set environment variables", short="e"),
    Flag("env-file", "list", "Read in a file of environment variables"),
    Flag("expose", "list", "Expose a port or a range of ports"),
    Flag("group-add", "list", "Add additional groups to join"),
    Flag("hostname", "str", "Container host name", short="h"),
    Flag("init", "bool", "Run an init inside the container that forwards signals and reaps"),
    Flag("interactive", "bool", "Keep STDIN open even if not attached", short="i"),
    Flag("io-maxbandwidth", "bytes", "", refused=_WINDOWS),
    Flag("io-maxiops", "int", "", refused=_WINDOWS),
    Flag("ipc", "str", "IPC mode to use"),
    Flag("isolation", "str", "", refused=_WINDOWS),
    Flag("label", "list", "Set meta data on a container", short="l"),
    Flag("label-file", "list", "Read in a line delimited file of labels"),
    Flag("log-driver", "str", "Logging driver for the container"),
    Flag("log-opt", "list", "Log driver options"),
    Flag("memory", "bytes", "Memory limit", short="m"),
    Flag("memory-reservation", "bytes", "Memory soft limit"),
    Flag("memory-swap", "str", "Limit of memory plus swap: '-1' for unlimited swap", hint="bytes"),
    Flag("memory-swappiness", "int", "Tune container memory swappiness (0 to 100)"),
    Flag("mount", "list", "Attach a filesystem mount to the container", hint="mount"),
    Flag("name", "str", "Assign a name to the container"),
    Flag("net", "str", ""),
    Flag("network", "str", "Connect a container to a network"),
    Flag("no-healthcheck", "bool", "Disable any container-specified HEALTHCHECK"),
    Flag("oom-kill-disable", "bool", "Disable OOM Killer"),
    Flag("oom-score-adj", "int", "Tune host's OOM preferences (-1000 to 1000)"),
    Flag("pid", "str", "PID namespace to use"),
    Flag("pids-limit", "int", "Tune container pids limit (set -1 for unlimited)"),
    Flag("platform", "str", "Platform, if the server is multi-platform capable"),
    Flag("privileged", "bool", "Give extended privileges to this container"),
    Flag("publish", "list", "Publish a container's port(s) to the host", short="p"),
    Flag("publish-all", "bool", "Publish all exposed ports to random ports", short="P"),
    Flag("pull", "str", "Pull image before running (always|missing|never)"),
    Flag("quiet", "bool", "Suppress the pull output", short="q"),
    Flag("read-only", "bool", "Mount the container's root filesystem as read only"),
    Flag("restart", "str", "Restart policy to apply when a container exits"),
    Flag("rm", "bool", "Remove the container and its anonymous volumes when it exits"),
    Flag("runtime", "str", "Runtime to use for this container"),
    Flag("security-opt", "list", "Security Options"),
    Flag("shm-size", "bytes", "Size of /dev/shm"),
    Flag("stop-signal", "str", "Signal to stop the container"),
    Flag("stop-timeout", "int", "Timeout (in seconds) to stop a container"),
    Flag("storage-opt", "list", "Storage driver options for the container"),
    Flag("sysctl", "list", "Sysctl options", hint="map"),
    Flag("tmpfs", "list", "Mount a tmpfs directory"),
    Flag("tty", "bool", "Allocate a pseudo-TTY", short="t"),
    Flag("ulimit", "list", "Ulimit options", hint="ulimit"),
    Flag("user", "str", "Username or UID (format: <name|uid>[:<group|gid>])", short="u"),
    Flag("userns", "str", "User namespace to use"),
    Flag("uts", "str", "UTS namespace to use"),
    Flag("volume", "list", "Bind mount a volume", short="v"),
    Flag("volumes-from", "list", "Mount volumes from the specified container(s)"),
    Flag("workdir", "str", "Working directory inside the container", short="w"),
]
RUN = [
    *CREATE,
    Flag("detach", "bool", "Run container in background and print container ID", short="d"),
    Flag("detach-keys", "str", "Override the key sequence for detaching a container"),
    Flag("sig-proxy", "bool", "Proxy received signals to the process"),
]


def create_body(flags: Values) -> dict[str, Any]:
    """The body of POST /containers/create from parsed flags; arguments are image and command."""
    if not flags.arguments:
        raise InvalidArgument("an image is needed: sampan run [OPTIONS] IMAGE [COMMAND] [ARG...]")
    image, *command = flags.arguments
    interactive, detached = flags.flag("interactive"), flags.flag("detach")
    attached = [name.lower() for name in flags.items("attach")]
    for name in attached:
        if name not in ("stdin", "stdout", "stderr"):
            raise InvalidArgument(f"--attach: {name}: expected stdin, stdout or stderr")
    everything = not attached and not detached
    body: dict[str, Any] = {
        "Image": image,
        "Cmd": command or None,
        "Env": environment(flags) or None,
        "Labels": _labels(flags),
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
        "StopSignal": flags.text("stop-signal") or None,
        "HostConfig": _host_config(flags),
    }
    if flags.given("entrypoint"):
        entrypoint = flags.text("entrypoint")
        body["Entrypoint"] = [entrypoint] if entrypoint else [""]
    if flags.given("stop-timeout"):
        body["StopTimeout"] = flags.number("stop-timeout")
    if flags.flag("no-healthcheck"):
        body["Healthcheck"] = {"Test": ["NONE"]}
    if flags.items("expose"):
        ports = (port if "/" in port else f"{port}/tcp" for port in flags.items("expose"))
        body["ExposedPorts"] = {port: {} for port in ports}
    anonymous = [v for v in flags.items("volume") if ":" not in v]
    if anonymous:
        body["Volumes"] = {path: {} for path in anonymous}
    return body


def _host_config(flags: Values) -> dict[str, Any]:
    config: dict[str, Any] = {
        "NetworkMode": flags.text("network") or flags.text("net") or "default",
        "AutoRemove": flags.flag("rm"),
        "Privileged": flags.flag("privileged"),
        "ReadonlyRootfs": flags.flag("read-only"),
        "Binds": [v for v in flags.items("volume") if ":" in v] or None,
        "LogConfig": {
            "Type": flags.text("log-driver"),
            "Config": _pairs(flags.items("log-opt"), "--log-opt"),
        },
        "PublishAllPorts": flags.flag("publish-all"),
    }
    texts = {
        "CgroupParent": "cgroup-parent",
        "CgroupnsMode": "cgroupns",
        "CpusetCpus": "cpuset-cpus",
        "CpusetMems": "cpuset-mems",
        "IpcMode": "ipc",
        "PidMode": "pid",
        "Runtime": "runtime",
        "UsernsMode": "userns",
        "UTSMode": "uts",
    }
    numbers = {
        "BlkioWeight": "blkio-weight",
        "CpuPeriod": "cpu-period",
        "CpuQuota": "cpu-quota",
        "CpuRealtimePeriod": "cpu-rt-period",
        "CpuRealtimeRuntime": "cpu-rt-runtime",
        "CpuShares": "cpu-shares",
        "Memory": "memory",
        "MemoryReservation": "memory-reservation",
        "MemorySwappiness": "memory-swappiness",
        "OomScoreAdj": "oom-score-adj",
        "PidsLimit": "pids-limit",
        "ShmSize": "shm-size",
    }
    lists = {
        "CapAdd": "cap-add",
        "CapDrop": "cap-drop",
        "DeviceCgroupRules": "device-cgroup-rule",
        "Dns": "dns",
        "DnsOptions": "dns-option",
        "DnsSearch": "dns-search",
        "ExtraHosts": "add-host",
        "GroupAdd": "group-add",
        "VolumesFrom": "volumes-from",
    }
    maps = {"Annotations": "annotation", "StorageOpt": "storage-opt", "Sysctls": "sysctl"}
    config |= {field: flags.text(name) for field, name in texts.items() if flags.given(name)}
    config |= {field: flags.number(name) for field, name in numbers.items() if flags.given(name)}
    config |= {field: flags.items(name) for field, name in lists.items() if flags.given(name)}
    for field, name in maps.items():
        if flags.given(name):
            config[field] = _pairs(flags.items(name), f"--{name}")
    for field, name in (("Init", "init"), ("OomKillDisable", "oom-kill-disable")):
        if flags.given(name):
            config[field] = flags.flag(name)
    if flags.given("cpus"):
        config["NanoCpus"] = _nano_cpus(flags.text("cpus"))
    if flags.given("memory-swap"):
        from sampan.cli.flags import parse

        value = flags.text("memory-swap")
        swap = [Flag("memory-swap", "bytes", "")]
        config["MemorySwap"] = (
            -1 if value == "-1" else parse("", swap, ["--memory-swap", value]).number("memory-swap")
        )
    if flags.given("restart"):
        name, _, count = flags.text("restart").partition(":")
        config["RestartPolicy"] = {"Name": name, "MaximumRetryCount": int(count or 0)}
    if flags.items("security-opt"):
        config["SecurityOpt"] = _security(flags.items("security-opt"), config)
    if flags.items("tmpfs"):
        config["Tmpfs"] = dict(_split(item, ":") for item in flags.items("tmpfs"))
    if flags.items("ulimit"):
        config["Ulimits"] = [_ulimit(item) for item in flags.items("ulimit")]
    if flags.items("device"):
        config["Devices"] = [_device(item) for item in flags.items("device")]
    if flags.items("mount"):
        config["Mounts"] = [_mount(item) for item in flags.items("mount")]
    if flags.items("publish"):
        config["PortBindings"] = _ports(flags.items("publish"))
    return config


def _split(item: str, by: str) -> tuple[str, str]:
    left, _, right = item.partition(by)
    return left, right


def _pairs(items: list[str], shown: str) -> dict[str, str]:
    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise InvalidArgument(f"{shown}: {item}: expected key=value")
        pairs[key] = value
    return pairs


def environment(flags: Values) -> list[str]:
    """``--env-file`` and ``--env`` in order; a bare name takes this process's value."""
    wanted = []
    for path in flags.items("env-file"):
        wanted += [line for line in _file_lines(path, "--env-file") if not line.startswith("#")]
    wanted += flags.items("env")
    result = []
    for item in wanted:
        name, equals, _ = item.partition("=")
        if not name:
            raise InvalidArgument(f"--env: {item!r}: a variable needs a name")
        if equals:
            result.append(item)
        elif name in os.environ:
            # `-e NAME` hands this process's own value on.
            result.append(f"{name}={os.environ[name]}")
    return result


def _labels(flags: Values) -> dict[str, str]:
    items: list[str] = []
    for path in flags.items("label-file"):
        items += _file_lines(path, "--label-file")
    return dict(_split(item, "=") for item in [*items, *flags.items("label")])


def _file_lines(path: str, shown: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except OSError as error:
        raise InvalidArgument(f"{shown}: {path}: {error.strerror}") from error


def _nano_cpus(text: str) -> int:
    try:
        return round(float(text) * 1_000_000_000)
    except ValueError:
        raise InvalidArgument(f"--cpus: {text}: expected a number such as 1.5") from None


def _security(items: list[str], config: dict[str, Any]) -> list[str]:
    options = []
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            key, _, value = item.partition(":")
        if key == "systempaths" and value == "unconfined":
            config["MaskedPaths"] = []
            config["ReadonlyPaths"] = []
            continue
        if key == "seccomp" and value not in ("unconfined", "builtin", ""):
            try:
                with open(value, encoding="utf-8") as file:
                    options.append("seccomp=" + json.dumps(json.load(file), separators=(",", ":")))
            except OSError as error:
                raise InvalidArgument(
                    f"--security-opt seccomp={value}: {error.strerror}"
                ) from error
            except ValueError as error:
                raise InvalidArgument(
                    f"--security-opt seccomp={value}: not JSON: {error}"
                ) from error
            continue
        options.append(item)
    return options


def _ulimit(item: str) -> dict[str, object]:
    name, equals, value = item.partition("=")
    soft, _, hard = value.partition(":")
    try:
        low, high = int(soft), int(hard or soft)
    except ValueError:
        raise InvalidArgument(f"--ulimit: {item}: expected name=soft[:hard], numbers") from None
    if not equals or (high != -1 and (low > high or low == -1)):
        raise InvalidArgument(f"--ulimit: {item}: expected name=soft[:hard] with soft <= hard")
    return {"Name": name, "Soft": low, "Hard": high}


def _device(item: str) -> dict[str, str]:
    host, *rest = item.split(":")
    permissions = "rwm"
    if rest and rest[-1] and set(rest[-1]) <= set("rwm"):
        permissions = rest.pop()
    return {
        "PathOnHost": host,
        "PathInContainer": rest[0] if rest else host,
        "CgroupPermissions": permissions,
    }


_MOUNT_KEYS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}


def _mount(item: str) -> dict[str, Any]:
    keys: dict[str, str] = {}
    for part in item.split(","):
        key, equals, value = part.partition("=")
        keys[_MOUNT_KEYS.get(key, key)] = value if equals else "true"
    mount: dict[str, Any] = {
        "Type": keys.pop("type", "volume"),
        "Source": keys.pop("source", ""),
        "Target": keys.pop("target", ""),
        "ReadOnly": keys.pop("readonly", "false") in ("true", "1"),
    }
    if not mount["Target"]:
        raise InvalidArgument(f"--mount: {item}: target is required")
    if "bind-propagation" in keys:
        mount["BindOptions"] = {"Propagation": keys.pop("bind-propagation")}
    if "tmpfs-size" in keys or "tmpfs-mode" in keys:
        options: dict[str, int] = {}
        if "tmpfs-size" in keys:
            from sampan.cli.flags import parse

            sizes = [Flag("tmpfs-size", "bytes", "")]
            given = parse("", sizes, ["--tmpfs-size", keys.pop("tmpfs-size")])
            options["SizeBytes"] = given.number("tmpfs-size")
        if "tmpfs-mode" in keys:
            options["Mode"] = int(keys.pop("tmpfs-mode"), 8)
        mount["TmpfsOptions"] = options
    if "volume-nocopy" in keys:
        mount["VolumeOptions"] = {"NoCopy": keys.pop("volume-nocopy") in ("true", "1")}
    if keys:
        raise InvalidArgument(f"--mount: {item}: unknown option {min(keys)}")
    return mount


def _ports(items: list[str]) -> dict[str, list[dict[str, str]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for item in items:
        place, _, protocol = item.partition("/")
        host, _, port = place.rpartition(":")
        address, _, host_port = host.rpartition(":")
        key = f"{port}/{protocol or 'tcp'}"
        bindings.setdefault(key, []).append({"HostIp": address, "HostPort": host_port})
    return bindings


def warn(messages: list[str]) -> None:
    """Print the daemon's warnings about a new container."""
    for message in messages:
        print(f"WARNING: {message}", file=sys.stderr)
