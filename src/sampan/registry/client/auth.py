"""Proving who we are: Basic, and the token authentication of Docker registries.

A registry answers 401 with a challenge (RFC 9110, 11.6.1). For ``Basic`` the password goes along
with every request. For ``Bearer`` a token is fetched from the server that the challenge names
(distribution project, "Token Authentication"; with an identity token its OAuth2 form) for the
scopes at hand, kept until it expires, and fetched again when the registry does not take it.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec

from sampan.errors import InvalidArgument, PermissionDenied, SampanError, Unauthenticated
from sampan.registry.client.errors import refusal
from sampan.registry.client.redirects import follow
from sampan.registry.client.urls import parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.registry.client.hosts import Hosts
    from sampan.registry.client.http import Pool, Response
    from sampan.registry.types import Credentials

__all__ = ["Authorizer", "parse_challenges"]

_ANSWER_LIMIT = 1 << 20
_DEFAULT_LIFE = 60.0
_EARLY = 5.0
_CLIENT = "sampan"


class _Answer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_in: float = 0


def parse_challenges(text: str) -> list[tuple[str, dict[str, str]]]:
    """Schemes (lower-case) and parameters of a ``WWW-Authenticate`` field, in their order."""
    found: list[tuple[str, dict[str, str]]] = []
    at, end = 0, len(text)
    while at < end:
        if text[at] in ", \t":
            at += 1
            continue
        begin = at
        while at < end and text[at] not in " \t=,":
            at += 1
        word = text[begin:at]
        while at < end and text[at] in " \t":
            at += 1
        if at < end and text[at] == "=" and found:
            value, at = _value(text, at + 1)
            found[-1][1].setdefault(word.lower(), value)
        elif word:
            found.append((word.lower(), {}))
        else:
            at += 1
    return found


def _value(text: str, at: int) -> tuple[str, int]:
    """A token or a quoted string, and where it ends."""
    if at < len(text) and text[at] == '"':
        out, at = "", at + 1
        while at < len(text) and text[at] != '"':
            if text[at] == "\\" and at + 1 < len(text):
                at += 1
            out += text[at]
            at += 1
        return out, at + 1
    begin = at
    while at < len(text) and text[at] not in ", \t":
        at += 1
    return text[begin:at], at


class Authorizer:
    """For one registry and one user."""

    def __init__(self, pool: Pool, hosts: Hosts, credentials: Credentials) -> None:
        self._pool = pool
        self._hosts = hosts
        self._credentials = credentials
        self._scheme = ""
        self._parameters: dict[str, str] = {}
        self._tokens: dict[str, tuple[str, float]] = {}
        self._lock = asyncio.Lock()
        self.refresh_token = ""
        """What a token server gave for later use in place of the password."""

    @property
    def _basic(self) -> str:
        pair = f"{self._credentials.username}:{self._credentials.password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"

    async def fields(self, scopes: tuple[str, ...]) -> dict[str, str]:
        """The ``Authorization`` of a request, as far as the registry has said what it wants."""
        if self._credentials.registry_token:
            return {"Authorization": f"Bearer {self._credentials.registry_token}"}
        if self._scheme == "basic":
            return {"Authorization": self._basic}
        if self._scheme == "bearer":
            return {"Authorization": f"Bearer {await self._token(scopes)}"}
        return {}

    def challenged(self, response: Response, sent: Mapping[str, str]) -> None:
        """Learn from a 401, so that ``fields`` may answer it. Raises Unauthenticated if it cannot.

        ``sent`` are the fields the refused request had: a token in them is not used again.
        """
        offered = parse_challenges(response.head.fields.get("www-authenticate", ""))
        where = response.url.shown
        if self._credentials.registry_token:
            raise Unauthenticated(f"{where}: the registry token is not accepted")
        for scheme, parameters in offered:
            if scheme == "bearer" and parameters.get("realm"):
                self._scheme, self._parameters = scheme, parameters
                had = sent.get("Authorization", "").rpartition(" ")[2]
                for scope in [key for key, (token, _) in self._tokens.items() if token == had]:
                    del self._tokens[scope]
                return
            if scheme == "basic":
                if not self._credentials.username:
                    raise Unauthenticated(f"{where}: no basic auth credentials")
                if sent.get("Authorization", "").startswith("Basic "):
                    raise Unauthenticated(f"{where}: incorrect username or password")
                self._scheme = scheme
                return
        names = ", ".join(scheme for scheme, _ in offered)
        raise Unauthenticated(f"{where}: no way to authenticate is known ({names or 'none asked'})")

    async def _token(self, scopes: tuple[str, ...]) -> str:
        key = " ".join(scopes)
        loop = asyncio.get_running_loop()
        async with self._lock:
            token, expires = self._tokens.get(key, ("", 0.0))
            if not token or loop.time() >= expires:
                begun = loop.time()
                answer = await self._fetch(scopes)
                token = answer.token or answer.access_token
                if not token:
                    raise SampanError(
                        f"{self._parameters['realm']}: the token server gave no token"
                    )
                life = max(answer.expires_in, _DEFAULT_LIFE)
                self._tokens[key] = (token, begun + life - _EARLY)
            return token

    async def offline_token(self) -> str:
        """Log in: check the password, and get a refresh token where the server gives any."""
        if self._scheme == "bearer":
            answer = await self._fetch((), offline=True)
            return answer.refresh_token
        return ""

    async def _fetch(self, scopes: tuple[str, ...], *, offline: bool = False) -> _Answer:
        realm, service = self._parameters["realm"], self._parameters.get("service", "")
        try:
            url = parse_url(realm)
        except InvalidArgument as error:
            raise SampanError(f"the registry's token server: {error}") from error
        verify = await self._hosts.verify(url)
        if url.scheme == "http" and verify and self._credentials:
            raise PermissionDenied(
                f"the registry wants the password sent to {url.shown} in the clear: refused; add "
                f"{url.authority} to insecure-registries if it is meant to be so"
            )
        query = [("service", service)] if service else []
        if self._credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "client_id": _CLIENT,
                "refresh_token": self._credentials.identity_token,
                "scope": " ".join(scopes),
                **dict(query),
            }
            sent = {"Content-Type": "application/x-www-form-urlencoded"}
            async with self._pool.send(
                "POST", url, sent, urlencode(form).encode(), verify=verify
            ) as response:
                return await self._read(response)
        query += [("scope", scope) for scope in scopes]
        fields = {}
        if self._credentials.username:
            query.append(("account", self._credentials.username))
            fields["Authorization"] = self._basic
        if offline:
            query += [("offline_token", "true"), ("client_id", _CLIENT)]
        joint = "&" if "?" in url.target else "?"
        url = url._replace(target=f"{url.target}{joint}{urlencode(query)}" if query else url.target)
        async with follow(self._pool, self._hosts, "GET", url, fields, verify=verify) as response:
            return await self._read(response)

    async def _read(self, response: Response) -> _Answer:
        if response.status != 200:
            error = await refusal(response, f"get token from {response.url.shown}")
            raise error
        data = await response.read(_ANSWER_LIMIT)
        try:
            return msgspec.json.decode(data, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SampanError(f"{response.url.shown}: not a token: {error}") from error
