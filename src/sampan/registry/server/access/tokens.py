"""Bearer tokens as the distribution project defines them ("Token Authentication Specification"):
JSON Web Tokens (RFC 7519) that say which actions their bearer may do with which repositories.

We sign and we verify, so one secret does: HMAC with SHA-256 (RFC 7515, "HS256"), by a key that is
made with the root. The algorithm is ours to say, never the token's.
"""

from __future__ import annotations

import base64
import hmac
import os
from typing import TYPE_CHECKING

import msgspec

from sampan.registry.server.errors import Unauthorized
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from sampan.registry.server.clock import Clock

__all__ = ["ISSUER", "SERVICE", "Access", "Claims", "Tokens", "read_key"]

ISSUER = "sampan"
SERVICE = "sampan-registry"
_HEAD = b'{"alg":"HS256","typ":"JWT"}'
_LEEWAY = 5.0


class Access(msgspec.Struct, frozen=True):
    type: str
    name: str
    actions: tuple[str, ...]


class Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    """``stamp`` is in a refresh token only: the account's, when it was given."""

    iss: str
    sub: str
    aud: str
    exp: float
    iat: float
    jti: str
    access: tuple[Access, ...] = ()
    stamp: str = ""


class Tokens:
    """Signs and verifies for one ``audience``, the service's name."""

    def __init__(self, key: bytes, audience: str, clock: Clock) -> None:
        self._key = key
        self._audience = audience
        self._clock = clock

    def of(self, audience: str) -> Tokens:
        """By the same key for another service, which takes none of ours."""
        return Tokens(self._key, audience, self._clock)

    def sign(
        self, user: str, seconds: float, access: tuple[Access, ...] = (), stamp: str = ""
    ) -> str:
        now = self._clock.now()
        claims = Claims(
            iss=ISSUER,
            sub=user,
            aud=self._audience,
            exp=int(now + seconds),
            iat=int(now),
            jti=os.urandom(8).hex(),
            access=access,
            stamp=stamp,
        )
        signed = f"{_encode(_HEAD)}.{_encode(msgspec.json.encode(claims))}"
        return f"{signed}.{_encode(self._sign(signed))}"

    def is_form_of(self, token: str) -> bool:
        """Ours, or made to look like it; nobody else's looks so."""
        return token.partition(".")[0] == _encode(_HEAD)

    def verify(self, token: str) -> Claims:
        """Raises Unauthorized."""
        signed, _, signature = token.rpartition(".")
        try:
            if not hmac.compare_digest(self._sign(signed), _decode(signature)):
                raise Unauthorized("the token is not of this registry")
            head, _, payload = signed.partition(".")
            if _decode(head) != _HEAD:
                raise Unauthorized("the token is not of this registry")
            claims = msgspec.json.decode(_decode(payload), type=Claims)
        except (ValueError, msgspec.DecodeError) as error:
            raise Unauthorized("the token cannot be read") from error
        if claims.iss != ISSUER or claims.aud != self._audience:
            raise Unauthorized("the token is for another service")
        if claims.exp + _LEEWAY < self._clock.now():
            raise Unauthorized("the token has expired")
        return claims

    def _sign(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode("utf-8"), "sha256")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def read_key(root: str) -> bytes:
    """The key of a registry's root, made once; a file that nobody else may read."""
    path = os.path.join(root, "token.key")
    temporary = f"{path}.new"
    try:
        if not os.path.exists(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600)
            try:
                os.write(descriptor, os.urandom(32))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(temporary, path)
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise explain(error, "open", path, "while making the registry's key") from error
