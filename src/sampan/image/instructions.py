"""Dockerfile instructions as changes of an image's configuration (``import --change``).

The Dockerfile reference names the instructions that only change configuration; the Docker API
takes these in ``changes`` of import and commit. A command is a JSON list (the exec form) or a line
for ``/bin/sh -c`` (the shell form).
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import InvalidArgument
from sampan.oci.image import Healthcheck, ImageConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["apply_changes", "nanoseconds"]

_SHELL = ("/bin/sh", "-c")
_NOT_TRIGGERS = ("ONBUILD", "FROM", "MAINTAINER")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
_UNITS["h"] = 60 * _UNITS["m"]
_duration = re.compile(r"(?:(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h))+").fullmatch
_durations = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)").findall
_is_port = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?", re.IGNORECASE).fullmatch


def apply_changes(config: ImageConfig, changes: Iterable[str]) -> ImageConfig:
    """The configuration after each instruction; InvalidArgument names the one that is wrong."""
    for change in changes:
        for line in change.replace("\\\n", " ").splitlines():
            if line.strip():
                config = _apply(config, line.strip())
    return config


def _apply(config: ImageConfig, line: str) -> ImageConfig:
    keyword, _, rest = line.partition(" ")
    name, rest = keyword.upper(), rest.strip()
    function = _INSTRUCTIONS.get(name)
    if function is None:
        raise InvalidArgument(
            f'change "{line}": {name} is not one of {", ".join(sorted(_INSTRUCTIONS))}'
        )
    if not rest:
        raise InvalidArgument(f'change "{line}": {name} requires an argument')
    try:
        return function(config, rest)
    except (InvalidArgument, ValueError) as error:
        raise InvalidArgument(f'change "{line}": {error}') from error


def _list(text: str) -> tuple[str, ...] | None:
    """The exec form, or None if the text is none."""
    if not text.startswith("["):
        return None
    try:
        return tuple(msgspec.json.decode(text, type=list[str]))
    except (msgspec.DecodeError, RecursionError):
        return None


def _command(config: ImageConfig, text: str) -> tuple[str, ...]:
    listed = _list(text)
    return listed if listed is not None else (*(config.shell or _SHELL), text)


def _pairs(text: str) -> list[tuple[str, str]]:
    words = shlex.split(text)
    if "=" not in words[0]:
        key, _, value = text.partition(" ")
        if not value.strip():
            raise InvalidArgument(f'"{key}" has no value')
        return [(key, " ".join(shlex.split(value)))]
    pairs = []
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise InvalidArgument(f'"{word}" is not KEY=VALUE')
        pairs.append((key, value))
    return pairs


def _cmd(config: ImageConfig, text: str) -> ImageConfig:
    return config.replace(cmd=_command(config, text))


def _entrypoint(config: ImageConfig, text: str) -> ImageConfig:
    return config.replace(entrypoint=_command(config, text))


def _env(config: ImageConfig, text: str) -> ImageConfig:
    values = dict(item.partition("=")[::2] for item in config.env)
    values.update(_pairs(text))
    return config.replace(env=tuple(f"{key}={value}" for key, value in values.items()))


def _label(config: ImageConfig, text: str) -> ImageConfig:
    return config.replace(labels={**config.labels, **dict(_pairs(text))})


def _expose(config: ImageConfig, text: str) -> ImageConfig:
    ports = dict(config.exposed_ports)
    for word in text.split():
        match = _is_port(word)
        if match is None:
            raise InvalidArgument(f'"{word}" is not PORT[/tcp|udp|sctp]')
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 < first <= last < 65536:
            raise InvalidArgument(f'"{word}" is not a port or a range of ports')
        protocol = (match[3] or "tcp").lower()
        ports.update({f"{port}/{protocol}": {} for port in range(first, last + 1)})
    return config.replace(exposed_ports=ports)


def _user(config: ImageConfig, text: str) -> ImageConfig:
    return config.replace(user=text)


def _volume(config: ImageConfig, text: str) -> ImageConfig:
    listed = _list(text)
    paths = listed if listed is not None else tuple(shlex.split(text))
    if not all(paths):
        raise InvalidArgument("a volume's path is empty")
    return config.replace(volumes={**config.volumes, **{path: {} for path in paths}})


def _workdir(config: ImageConfig, text: str) -> ImageConfig:
    if not text.startswith("/"):
        text = f"{config.working_dir or '/'}/{text}".replace("//", "/")
    return config.replace(working_dir=text)


def _stop_signal(config: ImageConfig, text: str) -> ImageConfig:
    return config.replace(stop_signal=text)


def _on_build(config: ImageConfig, text: str) -> ImageConfig:
    trigger = text.split(maxsplit=1)[0].upper()
    if trigger in _NOT_TRIGGERS:
        raise InvalidArgument(f"{trigger} may not be a trigger")
    return config.replace(on_build=(*config.on_build, text))


def nanoseconds(option: str, text: str) -> int:
    """A Go duration. Raises InvalidArgument, naming the option."""
    if _duration(text) is None:
        raise InvalidArgument(f'{option}: "{text}" is not a duration such as 1m30s')
    value = sum(int(float(number) * _UNITS[unit]) for number, unit in _durations(text))
    if 0 < value < 10**6:
        raise InvalidArgument(f"{option}: {text} is less than 1ms")
    return value


def _healthcheck(config: ImageConfig, text: str) -> ImageConfig:
    if text.upper() == "NONE":
        return config.replace(healthcheck=Healthcheck(test=("NONE",)))
    values: dict[str, int] = {}
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        name, _, value = option[2:].partition("=")
        key = name.replace("-", "_")
        if name == "retries":
            if not value.isdigit():
                raise InvalidArgument(f'--retries: "{value}" is not a number')
            values[key] = int(value)
        elif name in ("interval", "timeout", "start-period", "start-interval"):
            values[key] = nanoseconds(f"--{name}", value)
        else:
            raise InvalidArgument(f'unknown option "--{name}"')
        text = text.lstrip()
    keyword, _, command = text.partition(" ")
    if keyword.upper() != "CMD" or not command.strip():
        raise InvalidArgument("expected NONE, or CMD and a command")
    listed = _list(command.strip())
    test = ("CMD-SHELL", command.strip()) if listed is None else ("CMD", *listed)
    return config.replace(healthcheck=Healthcheck(test=test, **values))


_INSTRUCTIONS: dict[str, Callable[[ImageConfig, str], ImageConfig]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
