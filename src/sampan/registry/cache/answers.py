"""What a client is told when the other registry did not do as it should."""

from __future__ import annotations

import math

from sampan.errors import Corrupt, PermissionDenied, Unauthenticated
from sampan.registry.client.errors import Missing, NoConnection, NotHttp, Transient
from sampan.registry.server.errors import (
    BadUpstream,
    Denied,
    DigestInvalid,
    ManifestInvalid,
    NameUnknown,
    Refusal,
    TooManyRequests,
    Unreachable,
)

__all__ = ["explained", "is_silent"]

_AFTER = 30


def explained(error: Exception, upstream: str) -> Refusal:
    """Never a 401: that would ask the client for a password, which is ours to have."""
    if isinstance(error, (DigestInvalid, ManifestInvalid)):
        return BadUpstream(f"{upstream} sent something wrong: {error}", error.detail)
    if isinstance(error, Refusal):
        return error
    if isinstance(error, Missing):
        return NameUnknown(str(error))
    if isinstance(error, (Unauthenticated, PermissionDenied)):
        return Denied(f"{upstream} does not let this cache have it: {error}")
    if isinstance(error, Transient) and error.status == 429:
        after = _AFTER if error.after is None else max(1, math.ceil(error.after))
        return TooManyRequests(f"{upstream} has had too many requests: {error}", after)
    if isinstance(error, (Corrupt, NotHttp)):
        return BadUpstream(f"{upstream} sent something wrong: {error}")
    said = str(error)
    return Unreachable(said if said.startswith(upstream) else f"{upstream}: {said}")


def is_silent(error: Exception) -> bool:
    """Nobody answered: the next question would wait as long."""
    return isinstance(error, (NoConnection, NotHttp)) or (
        isinstance(error, Transient) and not error.status
    )
