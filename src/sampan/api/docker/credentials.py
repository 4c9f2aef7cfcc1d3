"""Who a client is at a registry: the header ``X-Registry-Auth``.

The API's "Authentication": an AuthConfig in JSON, base64url-encoded, with or without padding.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import InvalidArgument
from sampan.registry.types import Credentials

if TYPE_CHECKING:
    from sampan.api.docker.context import Context

__all__ = ["AuthConfig", "of_request"]

_HEADER = "x-registry-auth"
_LIMIT = 64 * 1024


class AuthConfig(msgspec.Struct, rename="lower"):
    """``auth`` is user and password as HTTP's Basic has them; ``email`` means nothing any more."""

    username: str | None = None
    password: str | None = None
    auth: str | None = None
    email: str | None = None
    serveraddress: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None

    def credentials(self) -> Credentials:
        """Raises InvalidArgument."""
        user, password = self.username or "", self.password or ""
        if not user and self.auth:
            try:
                pair = base64.b64decode(self.auth, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError) as error:
                raise InvalidArgument("auth is not user:password in base64") from error
            user, _, password = pair.partition(":")
        return Credentials(user, password, self.identitytoken or "", self.registrytoken or "")


def of_request(context: Context) -> Credentials | None:
    """The header's credentials, None without any. Raises InvalidArgument."""
    text = context.request.headers.get(_HEADER, "")
    if not text:
        return None
    if len(text) > _LIMIT:
        raise InvalidArgument("X-Registry-Auth is too large to be credentials")
    padded = text.rstrip("=")
    padded += "=" * (-len(padded) % 4)
    try:
        data = base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True)
        decoded = msgspec.json.decode(data, type=AuthConfig | None)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvalidArgument(f"invalid X-Registry-Auth header: {error}") from error
    return (decoded.credentials() or None) if decoded is not None else None
