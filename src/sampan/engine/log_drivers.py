"""What a container's log is to be: options checked as Docker checks them, and told to its monitor.

The drivers and their options are Docker's (docs/logs.md says what becomes of them). Where a
configuration names no driver it is json-file; the daemon's defaults are in it by then.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from sampan import template
from sampan.engine.container import rfc3339
from sampan.errors import InvalidArgument, NotSupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.engine.config import LogConfig
    from sampan.engine.container import ContainerRecord

__all__ = ["DRIVERS", "Place", "check", "log_place", "monitor_options"]

JOURNAL = "/run/systemd/journal/socket"
_ATTRIBUTES = {"labels", "labels-regex", "env", "env-regex", "tag"}
_FILES = {"max-size", "max-file", "compress"}
_SYSLOG = {"syslog-address", "syslog-facility", "syslog-format"}
_TLS = ("syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify")
_DELIVERY = {"mode", "max-buffer-size"}
_CACHE = {"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}

DRIVERS: dict[str, set[str]] = {
    "json-file": _FILES | _ATTRIBUTES,
    "local": _FILES | _ATTRIBUTES,
    "syslog": _SYSLOG | _ATTRIBUTES,
    "journald": _ATTRIBUTES,
    "none": set(),
}
"""Each driver and the options it knows beside those of all."""

_LOCAL_SIZE, _LOCAL_FILES = 20 * 1024 * 1024, 5
_BUFFER = 1024 * 1024
_FACILITIES = (
    "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp "
    "- - - - local0 local1 local2 local3 local4 local5 local6 local7"
).split()
_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
_TRANSPORTS = ("tcp", "tcp+tls", "udp", "unix", "unixgram")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


class Place(msgspec.Struct, frozen=True):
    """Where a log can be read: the ``path`` that is written, in the form of a ``driver``."""

    driver: str
    path: str


def check(config: LogConfig) -> None:
    """Refuse what no container could log with. Raises InvalidArgument, NotSupported."""
    kind, options = config.type or "json-file", config.config
    if kind not in DRIVERS:
        raise InvalidArgument(
            f"logger: no log driver named '{kind}' is registered: use {', '.join(DRIVERS)}"
        )
    if kind == "none":
        for option in options:
            raise InvalidArgument(f"unknown log opt '{option}' for none log driver")
        return
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options and mode != "non-blocking":
        raise InvalidArgument(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
        )
    for option in options:
        if option in _TLS and kind == "syslog":
            raise NotSupported(f"log opt '{option}' is not supported: {_NO_TLS}")
        if option not in DRIVERS[kind] | _DELIVERY | _CACHE:
            raise InvalidArgument(f"unknown log opt '{option}' for {kind} log driver")
    _buffer_size(options)
    _files(kind, options)
    _cache(kind, options)
    for option in ("labels-regex", "env-regex"):
        _pattern(options, option)
    template.parse(options.get("tag", ""))
    if kind == "syslog":
        _address(options.get("syslog-address", ""))
        _facility(options.get("syslog-facility", ""))
        if options.get("syslog-format", "") not in _FORMATS:
            raise InvalidArgument(
                f"invalid syslog format '{options['syslog-format']}': use {', '.join(_FORMATS[1:])}"
            )


_NO_TLS = (
    "a container's monitor speaks no TLS; send to a syslog daemon of this machine, which forwards"
)


def log_place(record: ContainerRecord, directory: str) -> Place | None:
    """Where the log of a container can be read, in its ``directory``; None: nowhere."""
    kind = record.host_config.log_config.type or "json-file"
    if kind == "json-file":
        return Place(kind, f"{directory}/{record.id}-json.log")
    if kind == "none":
        return None
    if kind != "local" and _cache(kind, record.host_config.log_config.config) is None:
        return None
    return Place("local", f"{directory}/local-logs/container.log")


def monitor_options(record: ContainerRecord, directory: str) -> dict[str, object]:
    """What the monitor is told (``sampan.runtime.supervisor.messages.LogOptions``).

    Raises InvalidArgument, also for a tag that cannot be filled in.
    """
    config = record.host_config.log_config
    kind, options = config.type or "json-file", config.config
    if kind == "none":
        return {"driver": kind}
    told: dict[str, object] = {
        "driver": kind,
        "blocking": options.get("mode") != "non-blocking",
        "buffer_size": _buffer_size(options),
        **_files(kind, options),
    }
    place = log_place(record, directory)
    attributes = _attributes(record, options)
    tag = _tag(record, options.get("tag", ""), place)
    if place is not None and kind in ("json-file", "local"):
        told["path"] = place.path
    elif place is not None:
        told["cache"] = {"path": place.path, **(_cache(kind, options) or {})}
    if kind == "syslog":
        told |= {
            "address": _address(options.get("syslog-address", "")),
            "facility": _facility(options.get("syslog-facility", "")),
            "format": options.get("syslog-format", ""),
        }
    elif kind == "journald":
        told["address"] = JOURNAL
        told["fields"] = _journal_fields(record, attributes, tag or record.id[:12])
    told["tag"] = tag or record.id[:12]
    # In a file a tag stands only when it was asked for.
    told["tag_attrs"] = {**attributes, "tag": tag} if tag else attributes
    return told


def _journal_fields(
    record: ContainerRecord, attributes: Mapping[str, str], tag: str
) -> dict[str, str]:
    fields = {
        "CONTAINER_ID": record.id[:12],
        "CONTAINER_ID_FULL": record.id,
        "CONTAINER_NAME": record.name,
        "CONTAINER_TAG": tag,
        "IMAGE_NAME": record.image_name,
        "SYSLOG_IDENTIFIER": tag,
    }
    for name, value in attributes.items():
        # The journal takes capital letters, digits and _, and keeps names with _ before for itself.
        key = re.sub(r"[^A-Z0-9_]", "_", name.upper()).lstrip("_")
        if key:
            fields[key[:64]] = value
    return fields


def _attributes(record: ContainerRecord, options: Mapping[str, str]) -> dict[str, str]:
    """The labels and variables that lines are to carry."""
    labels = record.config.labels or {}
    environment = dict(item.split("=", 1) for item in record.config.env or () if "=" in item)
    found: dict[str, str] = {}
    for option, source in (("labels", labels), ("env", environment)):
        for name in options.get(option, "").split(","):
            if name in source:
                found[name] = source[name]
        pattern = _pattern(options, f"{option}-regex")
        if pattern is not None:
            found |= {name: value for name, value in source.items() if pattern.search(name)}
    return found


def _tag(record: ContainerRecord, text: str, place: Place | None) -> str:
    """A tag's template filled in with what Docker offers it."""
    if not text:
        return ""
    entrypoint, *arguments = record.args or ("",)
    fields: dict[str, Any] = {
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "FullName": f"/{record.name}",
        "ImageID": record.image_id[:12],
        "ImageFullID": record.image_id,
        "ImageName": record.image_name,
        "DaemonName": "sampan",
        "Hostname": os.uname().nodename,
        "Command": " ".join(record.args),
        "ContainerID": record.id,
        "ContainerName": f"/{record.name}",
        "ContainerImageID": record.image_id,
        "ContainerImageName": record.image_name,
        "ContainerEntrypoint": entrypoint,
        "ContainerArgs": arguments,
        "ContainerCreated": rfc3339(record.created),
        "ContainerEnv": list(record.config.env or ()),
        "ContainerLabels": template.Map(record.config.labels or {}),
        "Config": template.Map(record.host_config.log_config.config),
        "LogPath": place.path if place is not None else "",
    }
    return template.render(template.parse(text), fields)


# -- options, one by one -------------------------------------------------------------------------


def _number_of_bytes(text: str, unit: int) -> int:
    """A size as Docker's library of units reads it: ``10m``, ``1.5 GB``, ``512KiB``."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"invalid size: '{text}'")
    return int(float(match[1]) * unit ** " kmgtp".index(match[2].lower() or " "))


def _buffer_size(options: Mapping[str, str]) -> int:
    text = options.get("max-buffer-size")
    if text is None:
        return _BUFFER
    try:
        size = _number_of_bytes(text, 1024)
    except InvalidArgument as error:
        raise InvalidArgument(f"error parsing option max-buffer-size: {error.message}") from error
    if size <= 0:
        raise InvalidArgument("max-buffer-size must be a positive number")
    return size


def _files(kind: str, options: Mapping[str, str], prefix: str = "") -> dict[str, object]:
    """``max_size``, ``max_file`` and ``compress`` of a log in files; {} for another."""
    if kind not in ("json-file", "local"):
        return {}
    local = kind == "local"
    text = options.get(f"{prefix}max-size")
    size = _LOCAL_SIZE if local else None
    if text is not None:
        size = _number_of_bytes(text, 1000)
        if size <= 0:
            raise InvalidArgument(f"{prefix}max-size must be a positive number")
    count = _whole(options, f"{prefix}max-file", _LOCAL_FILES if local else 1)
    if count < 1:
        raise InvalidArgument(f"{prefix}max-file cannot be less than 1")
    if count > 1 and size is None:
        raise InvalidArgument(f"log opt {prefix}max-file needs {prefix}max-size")
    compress = _truth(options, f"{prefix}compress", local)
    if compress and (count < 2 or size is None):
        if local:
            raise InvalidArgument("compression cannot be enabled when max file count is 1")
        raise InvalidArgument(
            "compress cannot be true when max-file is less than 2 or max-size is not set"
        )
    return {"max_size": size, "max_file": count, "compress": compress}


def _cache(kind: str, options: Mapping[str, str]) -> dict[str, object] | None:
    """The copy that is kept beside a log which cannot be read."""
    if kind in ("json-file", "local") or _truth(options, "cache-disabled", False):
        return None
    return _files("local", options, "cache-")


def _whole(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise InvalidArgument(f"log opt {name}: '{text}' is not a number")
    return int(text)


def _truth(options: Mapping[str, str], name: str, default: bool) -> bool:
    text = options.get(name)
    if text is None:
        return default
    if text not in _TRUE | _FALSE:
        raise InvalidArgument(f"log opt {name}: '{text}' is neither true nor false")
    return text in _TRUE


def _pattern(options: Mapping[str, str], name: str) -> re.Pattern[str] | None:
    text = options.get(name)
    if not text:
        return None
    try:
        return re.compile(text)
    except (re.error, RecursionError) as error:
        raise InvalidArgument(f"log opt {name}: '{text}': {error}") from error


def _facility(text: str) -> int:
    """A facility's number, by its name or itself; daemon for none."""
    if not text:
        return _FACILITIES.index("daemon")
    if text in _FACILITIES and text != "-":
        return _FACILITIES.index(text)
    if text.isdecimal() and int(text) < len(_FACILITIES):
        return int(text)
    raise InvalidArgument(f"invalid syslog facility '{text}'")


def _address(text: str) -> str:
    """A server's address with its port; empty for this machine's."""
    if not text:
        return ""
    scheme = text.partition("://")[0]
    if scheme not in _TRANSPORTS or "://" not in text:
        raise InvalidArgument(f"syslog-address should be in form proto://address, got {text}")
    if scheme == "tcp+tls":
        raise NotSupported(f"syslog-address {text}: tcp+tls is not supported: {_NO_TLS}")
    if scheme.startswith("unix"):
        path = text.partition("://")[2]
        if not os.path.exists(path):
            raise InvalidArgument(f"syslog-address {text}: {path}: no such file or directory")
        return text
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidArgument(f"syslog-address {text}: {error}") from error
    if not host:
        raise InvalidArgument(f"syslog-address {text}: the host is missing")
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port or 514}"
