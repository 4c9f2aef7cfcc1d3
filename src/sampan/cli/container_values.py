"""Values of container flags as the API's: environment, labels, limits, devices, security options.

Each raises UsageError that names the flag and what was expected (reference: Docker's run).
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from sampan.cli.flags import UsageError, number

if TYPE_CHECKING:
    from sampan.cli.flags import Values

__all__ = [
    "capabilities",
    "environment",
    "fields",
    "health",
    "labels",
    "limits",
    "pairs",
    "resources",
    "restart_policy",
    "security",
    "swap",
]

_RLIMITS = """core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime
sigpending stack""".split()

# Flags of update too, by the API's field.
_LIMITS = {
    "BlkioWeight": "blkio-weight",
    "CpuPeriod": "cpu-period",
    "CpuQuota": "cpu-quota",
    "CpuRealtimePeriod": "cpu-rt-period",
    "CpuRealtimeRuntime": "cpu-rt-runtime",
    "CpuShares": "cpu-shares",
    "Memory": "memory",
    "MemoryReservation": "memory-reservation",
    "PidsLimit": "pids-limit",
}


def fields(text: str, shown: str) -> list[str]:
    """One line of comma-separated values (RFC 4180): quotes keep a comma, doubled stand for one."""
    import csv

    try:
        (row,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise UsageError(f"{shown}: {text}: {error}") from None
    return row


def pairs(items: list[str], shown: str) -> dict[str, str]:
    """``key=value`` each; a key alone has the value ""."""
    return dict(item.partition("=")[::2] for item in items if _named(item, shown))


def _named(item: str, shown: str) -> str:
    if not item.partition("=")[0]:
        raise UsageError(f"{shown}: {item!r}: a name is missing before the =")
    return item


def environment(flags: Values) -> list[str]:
    """``--env-file`` and ``--env`` in order; a bare name takes this process's value.

    A bare name of ``--env`` that has no value here is sent as it is: it removes the image's.
    """
    result = []
    for path in flags.items("env-file"):
        for line in _file_lines(path, "--env-file"):
            name, equals, _ = _named(line, f"--env-file {path}").partition("=")
            if any(space in name for space in " \t"):
                raise UsageError(f"--env-file {path}: {name!r}: a name has no spaces")
            if equals:
                result.append(line)
            elif name in os.environ:
                result.append(f"{name}={os.environ[name]}")
    for item in flags.items("env"):
        name, equals, _ = _named(item, "--env").partition("=")
        known = not equals and name in os.environ
        result.append(f"{name}={os.environ[name]}" if known else item)
    return result


def labels(flags: Values) -> dict[str, str]:
    """``--label-file`` and ``--label``; a later one wins."""
    found: dict[str, str] = {}
    for item in flags.items("label"):
        name = item.partition("=")[0]
        if name.split() != [name]:
            raise UsageError(f"--label: {item!r}: a label's name is one word")
    for path in flags.items("label-file"):
        found |= pairs(_file_lines(path, "--label-file"), f"--label-file {path}")
    return found | pairs(flags.items("label"), "--label")


def _file_lines(path: str, shown: str) -> list[str]:
    """Lines that say something: no comments, no blanks at the left, as Docker reads them."""
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            lines = [line.lstrip().rstrip("\r\n") for line in file]
    except OSError as error:
        raise UsageError(f"{shown}: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown}: {path}: not UTF-8: {error.reason}") from error
    return [line for line in lines if line and not line.startswith("#")]


def swap(flags: Values) -> int:
    """``--memory-swap``: a size, or -1."""
    value = flags.text("memory-swap")
    return -1 if value == "-1" else number("bytes", value, "--memory-swap")


def limits(flags: Values) -> dict[str, Any]:
    """The limits that ``create`` and ``update`` share, those given only."""
    found: dict[str, Any] = {
        field: flags.number(name) for field, name in _LIMITS.items() if flags.given(name)
    }
    for field, name in (("CpusetCpus", "cpuset-cpus"), ("CpusetMems", "cpuset-mems")):
        if flags.given(name):
            found[field] = flags.text(name)
    if not 0 <= flags.number("blkio-weight") < 65536:
        raise UsageError("--blkio-weight: expected 10 to 1000, or 0")
    if flags.given("cpus"):
        found["NanoCpus"] = _nano_cpus(flags.text("cpus"))
    if flags.given("memory-swap"):
        found["MemorySwap"] = swap(flags)
    if flags.given("restart"):
        found["RestartPolicy"] = restart_policy(flags.text("restart"))
    return found


def _nano_cpus(text: str) -> int:
    whole, _, fraction = text.partition(".")
    if not (whole + fraction).isdigit():
        raise UsageError(f"--cpus: {text}: expected a number such as 1.5")
    if len(fraction) > 9:
        raise UsageError(f"--cpus: {text}: more than nine digits behind the point")
    return int(whole or 0) * 1_000_000_000 + int(fraction.ljust(9, "0"))


def restart_policy(text: str) -> dict[str, Any]:
    """``on-failure:3`` as the API's object; which policies there are is the daemon's to say."""
    name, colon, count = text.partition(":")
    if not name and colon:
        raise UsageError(f"--restart: {text}: no policy is named before the colon")
    if colon and not count.removeprefix("-").isdigit():
        raise UsageError(f"--restart: {text}: the number of attempts must be a whole number")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def resources(flags: Values) -> dict[str, Any]:
    """Devices and their I/O, resource limits: what else ``create`` has of HostConfig.Resources."""
    found: dict[str, Any] = {}
    rates = {
        "BlkioDeviceReadBps": ("device-read-bps", "Rate", "bytes"),
        "BlkioDeviceReadIOps": ("device-read-iops", "Rate", "int"),
        "BlkioDeviceWriteBps": ("device-write-bps", "Rate", "bytes"),
        "BlkioDeviceWriteIOps": ("device-write-iops", "Rate", "int"),
        "BlkioWeightDevice": ("blkio-weight-device", "Weight", "int"),
    }
    for field, (name, key, kind) in rates.items():
        if flags.items(name):
            found[field] = [_rate(item, key, kind, f"--{name}") for item in flags.items(name)]
    requested = [item for item in flags.items("device") if _is_cdi(item)]
    if requested:
        found["DeviceRequests"] = [{"Driver": "cdi", "DeviceIDs": requested}]
    files = [_device(item) for item in flags.items("device") if not _is_cdi(item)]
    if files:
        found["Devices"] = files
    if flags.items("ulimit"):
        named = {limit["Name"]: limit for limit in map(_ulimit, flags.items("ulimit"))}
        found["Ulimits"] = [named[name] for name in sorted(named)]
    if flags.given("memory-swappiness"):
        if not -1 <= flags.number("memory-swappiness") <= 100:
            raise UsageError("--memory-swappiness: expected 0 to 100")
        found["MemorySwappiness"] = flags.number("memory-swappiness")
    return found


def _rate(item: str, key: str, kind: str, shown: str) -> dict[str, Any]:
    path, colon, rate = item.rpartition(":")
    if not colon or not path.startswith("/dev/"):
        raise UsageError(f"{shown}: {item}: expected /dev/NAME:{key.lower()}")
    return {"Path": path, key: number(kind, rate, shown)}


def _is_cdi(item: str) -> bool:
    """A device by its name in the Container Device Interface, vendor.com/class=name."""
    kind, equals, name = item.partition("=")
    vendor, slash, family = kind.partition("/")
    return bool(equals and slash and vendor and family and name)


def _device(item: str) -> dict[str, str]:
    host, *rest = item.split(":")
    permissions = "rwm"
    if rest and not rest[-1].startswith("/"):
        permissions = rest.pop()
    if not host or len(rest) > 1 or not permissions or not set(permissions) <= set("rwm"):
        raise UsageError(f"--device: {item}: expected /dev/x[:/dev/y][:rwm]")
    return {
        "PathOnHost": host,
        "PathInContainer": rest[0] if rest else host,
        "CgroupPermissions": permissions,
    }


def capabilities(flags: Values) -> dict[str, list[str]]:
    """``--cap-add`` and ``--cap-drop`` by their full names; what is added is not dropped."""
    added = {_capability(item) for item in flags.items("cap-add")}
    dropped = {_capability(item) for item in flags.items("cap-drop")} - (added - {"ALL"})
    found = {"CapAdd": sorted(added), "CapDrop": sorted(dropped)}
    return {field: names for field, names in found.items() if names}


def _capability(name: str) -> str:
    upper = name.strip().upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


def _ulimit(item: str) -> dict[str, Any]:
    name, equals, value = item.partition("=")
    soft, _, hard = value.partition(":")
    try:
        low, high = int(soft), int(hard or soft)
    except ValueError:
        raise UsageError(f"--ulimit: {item}: expected name=soft[:hard], numbers") from None
    if name not in _RLIMITS:
        raise UsageError(f"--ulimit: {item}: known are {', '.join(_RLIMITS)}")
    if not equals or (high != -1 and (low > high or low == -1)):
        raise UsageError(f"--ulimit: {item}: expected name=soft[:hard] with soft <= hard")
    return {"Name": name, "Soft": low, "Hard": high}


def security(items: list[str]) -> dict[str, Any]:
    """``--security-opt``: the fields it makes. A seccomp profile's file is read here."""
    options: list[str] = []
    found: dict[str, Any] = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            key, separator, value = item.partition(":")
        if not separator and item != "no-new-privileges":
            raise UsageError(f"--security-opt: {item}: expected name=value")
        if key == "systempaths" and value == "unconfined":
            found |= {"MaskedPaths": [], "ReadonlyPaths": []}
        elif key == "seccomp" and value not in ("unconfined", "builtin"):
            options.append(f"seccomp={_seccomp(value)}")
        else:
            options.append(item)
    return {"SecurityOpt": options, **found} if options else found


def _seccomp(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return json.dumps(json.load(file), separators=(",", ":"))
    except OSError as error:
        raise UsageError(f"--security-opt seccomp={path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--security-opt seccomp={path}: not JSON: {error}") from error


def health(flags: Values) -> dict[str, Any] | None:
    """``--health-*`` and ``--no-healthcheck``; None for neither."""
    times = {
        "Interval": "health-interval",
        "Retries": "health-retries",
        "StartInterval": "health-start-interval",
        "StartPeriod": "health-start-period",
        "Timeout": "health-timeout",
    }
    given = [name for name in ("health-cmd", *times.values()) if flags.given(name)]
    if flags.flag("no-healthcheck"):
        if given:
            raise UsageError(f"--no-healthcheck and --{given[0]} contradict each other")
        return {"Test": ["NONE"]}
    if not given:
        return None
    check: dict[str, Any] = {}
    if flags.text("health-cmd"):
        check["Test"] = ["CMD-SHELL", flags.text("health-cmd")]
    for field, name in times.items():
        if flags.number(name) < 0:
            raise UsageError(f"--{name} cannot be negative")
        if flags.given(name):
            check[field] = flags.number(name)
    return check
