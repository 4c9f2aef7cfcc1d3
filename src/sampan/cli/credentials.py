"""Credentials for registries, where Docker's client keeps them too.

``config.json`` has them in ``auths`` by server, the password in base64 (which hides it from
nobody); ``credsStore`` names a program that keeps them instead, ``credHelpers`` one for each
server: programs ``docker-credential-NAME`` that are told ``get``, ``store`` or ``erase`` and speak
JSON. Docker Hub is called by its old address there, and every other registry by host and port.

The first login of a user chooses: where the system has a store (``pass``, or else the desktop's
secret service), as Docker's client looks for it, and it takes them, ``credsStore`` is that.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
from typing import TYPE_CHECKING, Any

from sampan.errors import InvalidArgument, SampanError
from sampan.oci import reference as references

if TYPE_CHECKING:
    from sampan.cli.client import Client
    from sampan.cli.settings import Settings

__all__ = ["HUB", "Credentials", "Keeper", "header", "registry_header", "server_of"]

HUB = "https://index.docker.io/v1/"
_TOKEN = "<token>"
_ABSENT = "credentials not found"


class Credentials:
    """A user and a password, or a token in the password's place."""

    def __init__(self, username: str, password: str = "", token: str = "") -> None:
        self.username = username
        self.password = password
        self.token = token

    def request(self, server: str) -> dict[str, str]:
        """The API's AuthConfig."""
        values = {
            "username": self.username,
            "password": self.password,
            "identitytoken": self.token,
            "serveraddress": server,
        }
        return {name: value for name, value in values.items() if value}


def server_of(image: str) -> str:
    """The key of an image's registry. Raises InvalidArgument for a malformed name."""
    domain = references.parse(image).domain
    return HUB if domain == references.DEFAULT_DOMAIN else domain


def header(client: Client, image: str) -> dict[str, str]:
    """The request header with what we have for an image's registry; ``{}`` for nothing."""
    return registry_header(client, server_of(image))


def registry_header(client: Client, server: str) -> dict[str, str]:
    found = Keeper(client.settings).get(server)
    config = found.request(server) if found is not None else {}
    data = json.dumps(config, separators=(",", ":")).encode()
    return {"X-Registry-Auth": base64.urlsafe_b64encode(data).decode("ascii")}


class Keeper:
    """The credentials of one configuration directory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def get(self, server: str) -> Credentials | None:
        """What is known for a server. Raises SampanError when a helper fails."""
        helper = self._helper(server)
        if helper:
            return _from_helper(helper, server)
        known = _object(self._settings.config().get("auths"))
        entry = known.get(server)
        if entry is None:
            # Older clients wrote addresses: https://host/v1/ is host.
            entry = next((known[key] for key in known if _host(key) == _host(server)), None)
        return _from_entry(server, _object(entry))

    def put(self, server: str, credentials: Credentials) -> bool:
        """Keep them; whether they stand in the file for everybody to read who can read it."""
        config = dict(self._settings.config())
        entry: dict[str, str] = {}
        helper = self._helper(server)
        secret = credentials.token or credentials.password
        name = _TOKEN if credentials.token else credentials.username
        stored = json.dumps({"ServerURL": server, "Username": name, "Secret": secret})
        if helper:
            _ask(helper, "store", stored)
        elif not any(config.get(key) for key in ("auths", "credHelpers")):
            helper = _into_the_system(stored)
            if helper:
                config["credsStore"] = helper
        if not helper:
            pair = f"{credentials.username}:{credentials.password}".encode()
            entry["auth"] = base64.b64encode(pair).decode("ascii")
            if credentials.token:
                entry["identitytoken"] = credentials.token
        config["auths"] = {**_object(config.get("auths")), server: entry}
        self._settings.save(config)
        return not helper

    def erase(self, server: str) -> bool:
        """Forget them; whether there were any."""
        helper = self._helper(server)
        known = _object(self._settings.config().get("auths"))
        keys = [key for key in known if key == server or _host(key) == _host(server)]
        there = bool(keys) or (helper != "" and _from_helper(helper, server) is not None)
        if helper and there:
            _ask(helper, "erase", server)
        if keys:
            left = {key: value for key, value in known.items() if key not in keys}
            self._settings.save({**self._settings.config(), "auths": left})
        return there

    def _helper(self, server: str) -> str:
        config = self._settings.config()
        for_server = _object(config.get("credHelpers")).get(server)
        name = for_server or config.get("credsStore") or ""
        if not isinstance(name, str) or "/" in name:
            raise InvalidArgument(f"{self._settings.config_path}: credential helper {name!r}")
        return name


def _into_the_system(stored: str) -> str:
    """Keep credentials in the store that this system has; its helper, or nothing where there is
    none, or none that works."""
    import shutil

    name = "pass" if shutil.which("pass") else "secretservice"
    if shutil.which(f"docker-credential-{name}") is None:
        return ""
    try:
        _ask(name, "store", stored)
    except SampanError as error:
        print(f"WARNING! Not used: {error.message}", file=sys.stderr)
        return ""
    return name


def _host(server: str) -> str:
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _from_entry(server: str, entry: dict[str, Any]) -> Credentials | None:
    user, password = entry.get("username") or "", entry.get("password") or ""
    if entry.get("auth"):
        try:
            pair = base64.b64decode(entry["auth"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, TypeError, ValueError) as error:
            raise InvalidArgument(
                f"config.json: the credentials for {server} cannot be read: log in again"
            ) from error
        user, _, password = pair.partition(":")
    token = entry.get("identitytoken") or ""
    return Credentials(user, password.rstrip("\0"), token) if user or token else None


def _from_helper(helper: str, server: str) -> Credentials | None:
    answer = _ask(helper, "get", server)
    if answer is None:
        return None
    try:
        found = json.loads(answer)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise SampanError(
            f"docker-credential-{helper} get {server}: no credentials in its answer"
        ) from error
    if not user and not secret:
        return None  # pass(1)'s helper says so
    return Credentials(user, token=secret) if user == _TOKEN else Credentials(user, secret)


def _ask(helper: str, verb: str, data: str) -> str | None:
    """Run a helper; its answer, None where it has nothing of the kind."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, verb], input=data, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise SampanError(
            f"{program} (credsStore or credHelpers in config.json): {error.strerror}: install it, "
            "or take it out of there"
        ) from error
    if done.returncode == 0:
        return done.stdout
    said = (done.stdout + done.stderr).strip()
    if verb != "store" and _ABSENT in said:
        return None
    raise SampanError(f"{program} {verb}: {said or f'exit status {done.returncode}'}")
