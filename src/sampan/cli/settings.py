"""What this client talks to, and where its own files are.

Global flags, then the environment, then ``config.json`` of the configuration directory
(``--config``, DOCKER_CONFIG, ``~/.docker``), which is shared with Docker's client: contexts,
credentials and preferences made with either hold for both. Which daemon, first that applies:

    --host, --context, SAMPAN_HOST, DOCKER_HOST, DOCKER_CONTEXT, currentContext, our own socket
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.flags import Values

__all__ = ["DEFAULT_HOST", "Endpoint", "Settings", "Tls"]

DEFAULT_HOST = "unix:///run/sampan/sampan.sock"


class Tls:
    """Files of a TLS connection, "" where there is none; ``verify`` the server's certificate."""

    __slots__ = ("ca", "cert", "key", "verify")

    def __init__(self, ca: str, cert: str, key: str, verify: bool) -> None:
        self.ca = ca
        self.cert = cert
        self.key = key
        self.verify = verify


class Endpoint:
    """A daemon's address and how to be sure of it."""

    __slots__ = ("host", "tls")

    def __init__(self, host: str, tls: Tls | None = None) -> None:
        self.host = host
        self.tls = tls


class Settings:
    """The client's own configuration; read when it is asked for."""

    __slots__ = ("_config", "_flags", "debug", "directory")

    def __init__(self, flags: Values) -> None:
        self._flags = flags
        self._config: dict[str, Any] | None = None
        self.debug = flags.flag("debug")
        self.directory = (
            flags.text("config")
            or os.environ.get("DOCKER_CONFIG")
            or os.path.expanduser("~/.docker")
        )

    # -- config.json -----------------------------------------------------------------------------

    @property
    def config_path(self) -> str:
        """The file; it need not exist."""
        return os.path.join(self.directory, "config.json")

    def config(self) -> dict[str, Any]:
        """What ``config.json`` says; empty where there is none. Raises InvalidArgument."""
        if self._config is None:
            try:
                with open(self.config_path, "rb") as file:
                    self._config = json.loads(file.read())
            except (FileNotFoundError, NotADirectoryError):
                self._config = {}
            except OSError as error:
                raise InvalidArgument(f"{self.config_path}: {error.strerror}") from error
            except ValueError as error:
                raise InvalidArgument(f"{self.config_path}: not JSON: {error}") from error
            if not isinstance(self._config, dict):
                raise InvalidArgument(f"{self.config_path}: expected an object of settings")
        return self._config

    def save(self, config: dict[str, Any]) -> None:
        """Replace ``config.json``, whole or not at all; it holds credentials, so only ours."""
        path = os.path.realpath(self.config_path)
        temporary = f"{path}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with open(temporary, "x", encoding="utf-8", opener=_private) as file:
                json.dump(config, file, indent="\t", ensure_ascii=False)
            os.rename(temporary, path)
        except OSError as error:
            raise InvalidArgument(f"{path} cannot be written: {error.strerror}") from error
        self._config = config

    def preference(self, name: str) -> str:
        """A text of ``config.json``, such as ``psFormat`` or ``detachKeys``; "" if not set."""
        value = self.config().get(name)
        return value if isinstance(value, str) else ""

    # -- the daemon ------------------------------------------------------------------------------

    def host_override(self) -> str:
        """The host that flags or the environment name, "" for none. Raises InvalidArgument."""
        hosts = self._flags.items("host")
        if len(hosts) > 1:
            raise InvalidArgument("-H: one daemon at a time: specify only one host")
        if hosts:
            if self._flags.text("context"):
                raise InvalidArgument("--host and --context contradict each other: give one")
            return hosts[0]
        if self._flags.text("context"):
            return ""
        return self.environment_host()

    def environment_host(self) -> str:
        """SAMPAN_HOST or DOCKER_HOST, "" for neither."""
        return os.environ.get("SAMPAN_HOST") or os.environ.get("DOCKER_HOST") or ""

    def context_name(self) -> str:
        """The context in use; "default" is flags, environment, and our own socket."""
        if self.host_override():
            return "default"
        return (
            self._flags.text("context")
            or os.environ.get("DOCKER_CONTEXT")
            or self.preference("currentContext")
            or "default"
        )

    def endpoint(self) -> Endpoint:
        """The daemon to talk to. Raises InvalidArgument, NotFound."""
        name = self.context_name()
        if name != "default":
            from sampan.cli.contexts import Store

            return Store(self.directory).endpoint(name)
        return Endpoint(self.host_override() or DEFAULT_HOST, self._tls())

    def _tls(self) -> Tls | None:
        flags = self._flags
        environment = bool(os.environ.get("DOCKER_TLS_VERIFY"))
        verify = flags.flag("tlsverify") if flags.given("tlsverify") else environment
        if not (verify or flags.flag("tls") or os.environ.get("DOCKER_TLS")):
            return None
        place = os.environ.get("DOCKER_CERT_PATH") or self.directory

        def file(flag: str, name: str) -> str:
            given = flags.text(flag)
            if given:
                return given
            usual = os.path.join(place, name)
            return usual if os.path.exists(usual) else ""

        return Tls(
            file("tlscacert", "ca.pem"),
            file("tlscert", "cert.pem"),
            file("tlskey", "key.pem"),
            verify,
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
