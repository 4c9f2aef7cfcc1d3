"""From a command line and a configuration file to the values of ``keys.KEYS``.

Flags are read as dockerd reads its own: ``--name value``, ``--name=value``, ``-Hvalue``, and a
switch takes its value behind ``=`` only. The file is JSON, or TOML (https://toml.io) when its name
ends so, with the same keys. Nothing may stand in both places.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from sampan.daemon.keys import KEYS, Key
from sampan.errors import InvalidArgument, NotFound, NotSupported, SampanError

__all__ = ["DEFAULT_FILES", "Given", "merge", "read_arguments", "read_file", "usage"]

DEFAULT_FILES = ("/etc/sampan/daemon.json", "/etc/sampan/daemon.toml")

_BY_FLAG = {f"--{key.long}": key for key in KEYS if key.long}
_BY_FLAG |= {f"-{key.short}": key for key in KEYS if key.short}
_BY_NAME = {key.name: key for key in KEYS}
_ACTIONS = {"--validate": "validate", "--version": "version", "-v": "version",
            "--help": "help", "-h": "help"}  # fmt: skip
_PROXIES = ("http-proxy", "https-proxy", "no-proxy")


class Given(msgspec.Struct, kw_only=True):
    """What a command line says: values by the keys' names, and what to do besides serving."""

    values: dict[str, Any] = {}
    config_file: str = ""
    actions: set[str] = set()


def _accept(key: Key, value: Any, where: str) -> Any:
    if key.why and value not in key.only:
        raise NotSupported(f"{where} is not supported: {key.why}")
    return value


def _add(values: dict[str, Any], key: Key, value: Any) -> None:
    held = values.get(key.name)
    if held is None or not key.kind.many:
        values[key.name] = value
    elif isinstance(held, list):
        held.extend(value)
    else:
        held.update(value)


def _split(word: str) -> tuple[str, str | None]:
    """A flag and the value that is written together with it."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return name, value if equals else None
    return word[:2], word[2:].removeprefix("=") if len(word) > 2 else None


def read_arguments(arguments: list[str]) -> Given:
    """Raises InvalidArgument, NotSupported."""
    given = Given()
    words = iter(arguments)
    for word in words:
        name, text = _split(word)
        if name in _ACTIONS:
            given.actions.add(_ACTIONS[name])
            continue
        key = _BY_FLAG.get(name)
        if key is None and name != "--config-file":
            what = "flag" if word.startswith("-") else "argument"
            raise InvalidArgument(f"unknown {what} {word}; see sampan daemon --help")
        if text is None:
            switch = key is not None and not key.kind.metavar
            text = "true" if switch else next(words, None)
        if text is None:
            raise InvalidArgument(f"{name} needs a value; see sampan daemon --help")
        if key is None:
            given.config_file = text
            continue
        try:
            value = key.kind.flag(text)
        except ValueError as error:
            raise InvalidArgument(f"{name} {text}: expected {error}") from error
        _add(given.values, key, value)
    for name, value in given.values.items():
        _accept(_BY_NAME[name], value, f"--{_BY_NAME[name].long}")
    return given


def _decoded(path: str, data: bytes) -> object:
    try:
        if path.endswith(".toml"):
            import tomllib

            return tomllib.loads(data.decode())
        return msgspec.json.decode(data) if data.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: {error}") from error


def read_file(path: str) -> dict[str, Any]:
    """Values by the keys' names. Raises NotFound, InvalidArgument, NotSupported."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise NotFound(f"the configuration file {path} does not exist") from error
    except OSError as error:
        raise SampanError(f"the configuration file {path}: {error.strerror}") from error
    decoded = _decoded(path, data)
    if not isinstance(decoded, dict):
        raise InvalidArgument(f"{path}: expected an object with keys")
    values: dict[str, Any] = {}
    unknown = sorted(name for name in decoded if name not in _BY_NAME)
    if unknown:
        raise InvalidArgument(f"{path}: {', '.join(unknown)}: no such configuration option")
    for name, item in decoded.items():
        key = _BY_NAME[name]
        try:
            value = key.kind.file(item)
        except ValueError as error:
            raise InvalidArgument(f"{path}: {name}: expected {error}") from error
        values[name] = _accept(key, value, f"{path}: {name}")
    for name, value in values.pop("proxies", {}).items():
        if name not in _PROXIES:
            raise InvalidArgument(f"{path}: proxies.{name}: no such configuration option")
        values[name] = value
    return values


def _file(given: str) -> str:
    """The configuration file to read, or none. Raises InvalidArgument."""
    if given:
        return given
    found = [path for path in DEFAULT_FILES if os.path.exists(path)]
    if len(found) > 1:
        raise InvalidArgument(f"both {' and '.join(found)} exist: keep one of them")
    return found[0] if found else ""


def merge(given: Given) -> dict[str, Any]:
    """A value for every key that is not refused. Raises what ``read_file`` does."""
    path = _file(given.config_file)
    filed = read_file(path) if path else {}
    both = [
        f"{name} (flag: {_shown(given.values[name])}, file: {_shown(filed[name])})"
        for name in filed
        if name in given.values
    ]
    if both:
        raise InvalidArgument(
            f"{path}: specified both as a flag and in the configuration file: {', '.join(both)}"
        )
    values = {key.name: key.default for key in KEYS if not key.why}
    return {**values, **filed, **given.values}


def _shown(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def usage() -> str:
    """The text of ``--help``."""
    lines = [
        "Usage: sampan daemon [flags]",
        "",
        "Serve the Docker Engine API; containers live on when it stops. Each flag may be given",
        "in the configuration file instead, under the name in brackets where that is another.",
        "",
        _row("--config-file FILE", f"JSON or TOML ({' or '.join(DEFAULT_FILES)})"),
        _row("--validate", "check flags and file, and exit"),
        _row("-v, --version", "print our version and exit"),
    ]
    for key in KEYS:
        if key.why or not key.long:
            continue
        flag = f"-{key.short}, --{key.long}" if key.short else f"--{key.long}"
        said = key.help + (f" [{key.name}]" if key.long != key.name else "")
        if key.default and key.default is not True:
            said += f" (default {key.default})"
        lines.append(_row(f"{flag} {key.kind.metavar}".rstrip(), said))
    return "\n".join(lines)


def _row(flag: str, said: str) -> str:
    return f"  {flag:<36} {said}"
