"""Bearer tokens of another token server: JSON Web Tokens (RFC 7519) as the distribution project
defines them, signed with a key whose public half is here (``keys``).

What is believed is the configuration's: which keys there are, and what each one's algorithm is. Of
a token's header only ``alg`` and ``kid`` are looked at, and ``crit`` is refused; a key that it
brings along, or an address of one (``jwk``, ``jku``, ``x5u``), is never used (CVE-2018-0114,
CVE-2025-24976). A certificate (``x5c``) is nothing but the name of the same one in our file.

Times are held against the machine's clock, as their issuer's are, with a minute's leeway.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from sampan.registry.server.access.keys import decode
from sampan.registry.server.access.tokens import Access, Claims
from sampan.registry.server.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.registry.server.access.keys import Key, Keys

__all__ = ["LEEWAY", "Foreign"]

LEEWAY = 60.0
_LONGEST = 64 * 1024


class _Head(msgspec.Struct):
    alg: str
    kid: str | None = None
    x5c: tuple[str, ...] = ()
    crit: object = None


class _Granted(msgspec.Struct):
    type: str
    name: str
    actions: tuple[str, ...] | None = None


class _Claims(msgspec.Struct):
    iss: str
    aud: str | tuple[str, ...]
    exp: float
    sub: str = ""
    nbf: float | None = None
    access: tuple[_Granted, ...] | None = None


class Foreign:
    """Verifies what ``issuer`` signed for ``service`` with one of ``keys``."""

    def __init__(
        self, keys: Keys, issuer: str, service: str, now: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._service = service
        self._now = now

    def verify(self, token: str) -> Claims:
        """Raises Unauthorized."""
        if len(token) > _LONGEST:
            raise Unauthorized("the token is too long")
        parts = token.split(".")
        if len(parts) != 3:
            raise Unauthorized("the token cannot be read: it is not of three parts")
        try:
            head = msgspec.json.decode(decode(parts[0]), type=_Head)
            signature = decode(parts[2])
        except (ValueError, RecursionError) as error:
            raise Unauthorized("the token cannot be read") from error
        if head.crit is not None:
            raise Unauthorized("the token has extensions that one must understand")
        key = self._key(head)
        if head.alg != key.algorithm:
            raise Unauthorized(f'the token says "{head.alg[:20]}", its key is for {key.algorithm}')
        if not key.verify(signature, f"{parts[0]}.{parts[1]}".encode()):
            raise Unauthorized("the token's signature is wrong")
        try:
            said = msgspec.json.decode(decode(parts[1]), type=_Claims)
        except (ValueError, RecursionError) as error:
            raise Unauthorized(f"the token's claims cannot be read: {error}") from error
        self._check(said)
        granted = (Access(one.type, one.name, one.actions or ()) for one in said.access or ())
        return Claims(
            iss=said.iss,
            sub=said.sub,
            aud=self._service,
            exp=said.exp,
            iat=0.0,
            jti="",
            access=tuple(granted),
        )

    def _key(self, head: _Head) -> Key:
        if head.kid is None and not head.x5c:
            if self._keys.only is None:
                raise Unauthorized("the token does not say which key it is signed with (kid)")
            return self._keys.only
        key = self._keys.named.get(head.kid) if head.kid is not None else None
        if key is None and head.x5c:
            key = self._keys.certificates.get(head.x5c[0])
        if key is None:
            said = f'"{head.kid[:100]}"' if head.kid is not None else "a certificate"
            raise Unauthorized(f"the token is signed with {said}, which is not known here")
        return key

    def _check(self, said: _Claims) -> None:
        audience = (said.aud,) if isinstance(said.aud, str) else said.aud
        if said.iss != self._issuer:
            raise Unauthorized("the token is of another issuer")
        if self._service not in audience:
            raise Unauthorized("the token is for another service")
        now = self._now()
        if said.exp + LEEWAY < now:
            raise Unauthorized("the token has expired")
        if said.nbf is not None and said.nbf - LEEWAY > now:
            raise Unauthorized("the token is not good yet")
