"""The other registry, as far as a cache asks it: one session of the registry client."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import msgspec

from sampan.errors import Corrupt
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.registry.client.download import from_registry
from sampan.registry.client.errors import refusal
from sampan.registry.client.hosts import Endpoint, Hosts
from sampan.registry.client.http import Deadlines, Pool
from sampan.registry.client.proxies import Proxies, is_loopback
from sampan.registry.client.repository import Repository, read_tags
from sampan.registry.client.session import Session
from sampan.registry.client.tls import Trust
from sampan.registry.client.urls import parse_url
from sampan.registry.policy import Policy
from sampan.registry.types import MANIFEST_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sampan.registry.cache.settings import Settings
    from sampan.registry.client.download import Source
    from sampan.registry.client.http import Response
    from sampan.registry.types import Document

__all__ = ["Listed", "Upstream"]

_DEADLINES = Deadlines(connect=10.0, head=30.0)
_ACCEPT = ", ".join((oci.MANIFEST, oci.INDEX, oci.DOCKER_MANIFEST, oci.DOCKER_INDEX))


class Listed(NamedTuple):
    names: list[str]
    more: bool


class Upstream:
    """Errors are those of ``sampan.registry.client.errors``."""

    def __init__(self, settings: Settings) -> None:
        url = parse_url(settings.url)
        policy = Policy(
            insecure=(url.authority,) if url.scheme == "http" else (),
            proxies=Proxies.of(os.environ),
        )
        self.url = settings.url
        self._pool = Pool(Trust(policy.certs), policy.proxies, _DEADLINES)
        self._session = Session(
            self._pool,
            Hosts(policy),
            [Endpoint(url, verify=not is_loopback(url.host))],
            settings.credentials,
        )

    def _repository(self, name: str) -> Repository:
        return Repository(self._session, name)

    async def digest_of(self, name: str, tag: str) -> str | None:
        """By HEAD; None where the registry does not say. Raises Missing."""
        repository = self._repository(name)
        async with self._session.request(
            "HEAD",
            repository.path(f"manifests/{tag}"),
            {"Accept": _ACCEPT},
            scopes=repository.pull,
        ) as response:
            if response.status != 200:
                raise await refusal(response, f"manifest {name}:{tag}")
            said = response.head.fields.get("docker-content-digest", "")
            return said if digests.is_digest(said) else None

    async def manifest(self, name: str, reference: str) -> Document:
        """Verified. Raises Missing, Corrupt."""
        return await self._repository(name).manifest(reference)

    async def blob_size(self, name: str, digest: str) -> int:
        """By HEAD. Raises Missing, Corrupt."""
        repository = self._repository(name)
        async with self._session.request(
            "HEAD", repository.path(f"blobs/{digest}"), scopes=repository.pull
        ) as response:
            if response.status != 200:
                raise await refusal(response, f"blob {digest} of {name}")
            return _length(response)

    @asynccontextmanager
    async def blob(self, name: str, digest: str) -> AsyncIterator[tuple[int, Source]]:
        """Its size, and where to have it from: an answer that has begun already, then others.

        Raises Missing, Corrupt.
        """
        again = from_registry(self._repository(name), digest)
        async with again({}) as first:
            if first.status != 200:
                raise await refusal(first, f"blob {digest} of {name}")
            begun = [first]

            @asynccontextmanager
            async def source(fields: dict[str, str]) -> AsyncIterator[Response]:
                if begun:
                    yield begun.pop()
                    return
                async with again(fields) as response:
                    yield response

            yield _length(first), source

    async def tags(self, name: str, limit: int, last: str) -> Listed:
        """One page. Raises Missing, Corrupt."""
        repository = self._repository(name)
        query = urlencode({"n": limit} | ({"last": last} if last else {}))
        async with self._session.request(
            "GET", f"{repository.path('tags/list')}?{query}", scopes=repository.pull
        ) as response:
            if response.status != 200:
                raise await refusal(response, f"tags of {name}")
            return Listed(await read_tags(response), "link" in response.head.fields)

    async def referrers(self, name: str, digest: str, kind: str) -> bytes:
        """The index. Raises Missing (a registry without this API), Corrupt."""
        repository = self._repository(name)
        path = repository.path(f"referrers/{digest}")
        if kind:
            path += f"?{urlencode({'artifactType': kind})}"
        async with self._session.request("GET", path, scopes=repository.pull) as response:
            if response.status != 200:
                raise await refusal(response, f"referrers of {name}@{digest}")
            data = await response.read(MANIFEST_LIMIT)
            try:
                msgspec.json.decode(data, type=dict[str, object])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise Corrupt(f"{response.url.shown}: not an index: {error}") from error
            return data

    def close(self) -> None:
        self._pool.close()


def _length(response: Response) -> int:
    if response.length is None:
        raise Corrupt(f"{response.url.shown}: the blob is sent without its length")
    return response.length
