"""Following a redirect without losing what must not be lost on the way.

At most ten. ``Authorization`` stays at home: registries redirect to stores of other companies,
whose addresses are signed (class of CVE-2020-15157). From HTTPS to plain HTTP only where the target
may be insecure anyway. Only GET and HEAD follow: what carries a body is never redirected by a
registry.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, SampanError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sampan.registry.client.hosts import Hosts
    from sampan.registry.client.http import Pool, Response
    from sampan.registry.client.urls import Url

__all__ = ["follow"]

LIMIT = 10
_MOVED = (301, 302, 303, 307, 308)


@asynccontextmanager
async def follow(
    pool: Pool,
    hosts: Hosts,
    method: str,
    url: Url,
    fields: Mapping[str, str],
    *,
    verify: bool,
) -> AsyncIterator[Response]:
    """The answer at the end of the redirects. Raises what ``Pool.send`` raises, SampanError."""
    at, sent = url, dict(fields)
    for _ in range(LIMIT + 1):
        async with pool.send(method, at, sent, verify=verify) as response:
            if response.status not in _MOVED:
                yield response
                return
            location = response.head.fields.get("location", "")
            if not location:
                raise SampanError(f"{at.shown}: redirected, and not said where to")
            try:
                target = at.join(location)
            except InvalidArgument as error:
                raise SampanError(f"{at.shown}: redirected to no address: {error}") from error
        if target.origin != at.origin:
            sent.pop("Authorization", None)
            verify = await hosts.verify(target)
            if at.scheme == "https" and target.scheme == "http" and verify:
                raise SampanError(
                    f"{at.shown}: redirected from HTTPS to plain HTTP ({target.shown}): refused; "
                    "add that host to insecure-registries if it is meant to be so"
                )
        at = target
    raise SampanError(f"{url.shown}: stopped after {LIMIT} redirects")
