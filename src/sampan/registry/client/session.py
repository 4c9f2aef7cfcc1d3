"""One registry: which of its addresses answers, who we are there, and requests that get through.

An insecure registry may speak HTTPS or HTTP: the first address that answers in its protocol stays.
A 401 is answered by learning what the registry wants and asking again, twice at most.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sampan.errors import SampanError, Unauthenticated
from sampan.registry.client.auth import Authorizer, parse_challenges
from sampan.registry.client.errors import (
    AccessRefused,
    NoConnection,
    NotHttp,
    Transient,
    Unanswered,
    refusal,
)
from sampan.registry.client.redirects import follow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from sampan.registry.client.hosts import Endpoint, Hosts
    from sampan.registry.client.http import Body, Pool, Response
    from sampan.registry.client.urls import Url
    from sampan.registry.types import Credentials

__all__ = ["Session", "pull_scope", "push_scope"]

_CHALLENGES = 2


def pull_scope(repository: str) -> str:
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    return f"repository:{repository}:pull,push"


class Session:
    """``endpoints`` are addresses of the same registry, in the order to try them."""

    def __init__(
        self,
        pool: Pool,
        hosts: Hosts,
        endpoints: Sequence[Endpoint],
        credentials: Credentials,
    ) -> None:
        self._pool = pool
        self._hosts = hosts
        self._endpoints = list(endpoints)
        self.mirror = endpoints[0].mirror
        self.authorizer = Authorizer(pool, hosts, credentials)
        self._answered = False

    @property
    def base(self) -> Url:
        """The address in use, or the first to be tried."""
        return self._endpoints[0].base

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: str | Url,
        fields: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        *,
        scopes: tuple[str, ...] = (),
    ) -> AsyncIterator[Response]:
        """An answer, whatever its status but 401. ``target`` is a path, or where we were sent.

        Raises Unauthenticated, NoConnection, Transient, NotHttp.
        """
        while True:
            endpoint = self._endpoints[0]
            url = endpoint.base._replace(target=target) if isinstance(target, str) else target
            try:
                async with self._authorized(method, url, fields, body, scopes) as response:
                    # This one answers: the others are of no interest any more.
                    self._endpoints = [endpoint]
                    yield response
                    return
            except (NoConnection, NotHttp) as error:
                if self._endpoints == [endpoint]:
                    if isinstance(error, NoConnection) and not self._answered:
                        raise Unanswered(error.message) from error
                    raise
                if endpoint in self._endpoints:  # or another request was faster
                    self._endpoints.remove(endpoint)

    @asynccontextmanager
    async def _authorized(
        self,
        method: str,
        url: Url,
        fields: Mapping[str, str] | None,
        body: Body | bytes | None,
        scopes: tuple[str, ...],
    ) -> AsyncIterator[Response]:
        verify = self._endpoints[0].verify
        if url.origin != self.base.origin:
            verify = await self._hosts.verify(url)
        for attempt in range(_CHALLENGES + 1):
            sent = dict(fields or {})
            if url.origin == self.base.origin:
                sent |= await self.authorizer.fields(scopes)
            answer = (
                follow(self._pool, self._hosts, method, url, sent, verify=verify)
                if method in ("GET", "HEAD")
                else self._pool.send(method, url, sent, body, verify=verify)
            )
            async with answer as response:
                self._answered = True
                if response.status != 401:
                    yield response
                    return
                if attempt == _CHALLENGES or response.url.origin != self.base.origin:
                    raise await _refused(response)
                self.authorizer.challenged(response, sent)
                # A kept connection needs the body read; what a HEAD does not have is no loss.
                await response.read(1 << 16, cut=True)
        raise Unauthenticated(f"{url.shown}: not accepted")

    async def ping(self) -> None:
        """Ask for ``/v2/`` (distribution specification, "Determining Support").

        Raises Unauthenticated, SampanError where no registry answers.
        """
        async with self.request("GET", "/v2/") as response:
            await response.read(1 << 16, cut=True)
            if response.status != 200:
                error = await refusal(response, f"{response.url.shown}")
                if isinstance(error, Transient):
                    raise error
                raise SampanError(f"{response.url.shown}: not a registry: {error}")


async def _refused(response: Response) -> SampanError:
    """A 401 that no credentials of ours change: not for us, or not for anybody unknown."""
    for _, parameters in parse_challenges(response.head.fields.get("www-authenticate", "")):
        if parameters.get("error") == "insufficient_scope":
            words = "denied: requested access to the resource is denied"
            return AccessRefused(f"{response.url.shown}: {words}", 401, ("DENIED",), words)
    return await refusal(response, response.url.shown)
