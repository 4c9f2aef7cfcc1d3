"""The carrier: requests of one daemon, each a task, until the daemon's end of the socket closes.

Nothing here has to be undone: what a dead carrier leaves are partial blobs, which the next one
continues, and a connection that a registry sees break.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import msgspec

from sampan.errors import Corrupt, NotFound, SampanError
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.oci.reference import DEFAULT_DOMAIN
from sampan.oci.selection import select
from sampan.registry.carrier import messages
from sampan.registry.carrier.fetching import Fetching
from sampan.registry.carrier.sending import Sending
from sampan.registry.carrier.slots import Slots
from sampan.registry.carrier.words import denied
from sampan.registry.client.hosts import Hosts
from sampan.registry.client.http import Pool
from sampan.registry.client.repository import Repository
from sampan.registry.client.retries import retry
from sampan.registry.client.search import INDEX, search
from sampan.registry.client.session import Session
from sampan.registry.client.tls import Trust
from sampan.registry.types import MANIFEST_LIMIT
from sampan.storage.blobs import BlobStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sampan.registry.carrier.messages import Event, Request, Where
    from sampan.registry.policy import Policy
    from sampan.registry.types import Document

__all__ = ["Carrier"]

T = TypeVar("T")
R = TypeVar("R", oci.Manifest, oci.Index)

_SESSIONS = 64
_DEPTH = 4


class Carrier:
    """``content`` is the blob store's directory."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        blobs = BlobStore(content)
        self._operations: dict[int, asyncio.Task[None]] = {}
        self._pools: dict[Policy, tuple[Pool, Hosts]] = {}
        self._sessions: dict[tuple[Where, bool], list[Session]] = {}
        self._fetching = Fetching(blobs, Slots())
        self._sending = Sending(blobs, Slots())

    async def serve(self) -> None:
        """Until the daemon is gone, or wants no more."""
        while (data := await messages.read_frame(self._reader)) is not None:
            request = messages.decode_request(data)
            if isinstance(request, messages.Cancel):
                task = self._operations.get(request.number)
                if task is not None:
                    task.cancel()
                continue
            task = asyncio.create_task(self._run(request))
            self._operations[request.number] = task
        for task in self._operations.values():
            task.cancel()
        await asyncio.gather(*self._operations.values(), return_exceptions=True)
        for pool, _ in self._pools.values():
            pool.close()

    def _tell(self, event: Event) -> None:
        self._writer.write(messages.encode(event))

    async def _run(self, request: Request) -> None:
        try:
            self._tell(await self._answer(request))
        except SampanError as error:
            self._tell(_failure(request.number, error))
        except OSError as error:
            self._tell(_failure(request.number, SampanError(f"{error.strerror or error}")))
        except Exception as error:
            # A bug, which the loop reports: who asked is not to wait for ever.
            self._tell(_failure(request.number, SampanError(f"the carrier failed: {error!r}")))
            raise
        finally:
            del self._operations[request.number]

    async def _answer(self, request: Request) -> Event:
        match request:
            case messages.Resolve():
                return await self._resolve(request)
            case messages.Fetch():
                pool, hosts = self._pool(request.where.policy)
                repositories = await self._repositories(request.where, pull=True)
                return await self._fetching.fetch(request, repositories, pool, hosts, self._tell)
            case messages.Send():
                (repository,) = await self._repositories(request.where)
                return await self._sending.send(request, repository, self._tell)
            case messages.PutManifest():
                return await self._put_manifest(request)
            case messages.ListTags():
                return await self._tags(request)
            case messages.Check():
                return await self._check(request)
            case messages.Search():
                return await self._search(request)
            case messages.Cancel():
                raise AssertionError("handled where it is read")

    # -- where to ask --------------------------------------------------------------------------

    def _pool(self, policy: Policy) -> tuple[Pool, Hosts]:
        if policy not in self._pools:
            pool = Pool(Trust(policy.certs), policy.proxies)
            self._pools[policy] = pool, Hosts(policy)
        return self._pools[policy]

    async def _repositories(self, where: Where, *, pull: bool = False) -> list[Repository]:
        """The repository in each registry to ask: mirrors first (``pull``), its own home last."""
        key = where, pull
        sessions = self._sessions.get(key)
        if sessions is None:
            if len(self._sessions) >= _SESSIONS:
                self._sessions.clear()
            pool, hosts = self._pool(where.policy)
            endpoints = await hosts.endpoints(where.domain, mirrors=pull)
            groups = [[endpoint] for endpoint in endpoints if endpoint.mirror]
            groups.append([endpoint for endpoint in endpoints if not endpoint.mirror])
            # A password is for the registry it was given for, not for a mirror of it.
            anonymous = type(where.credentials)()
            sessions = [
                Session(pool, hosts, group, anonymous if group[0].mirror else where.credentials)
                for group in groups
            ]
            self._sessions[key] = sessions
        return [Repository(session, where.path) for session in sessions]

    # -- small requests ------------------------------------------------------------------------

    async def _resolve(self, request: messages.Resolve) -> Event:
        repositories = await self._repositories(request.where, pull=True)
        *mirrors, home = repositories
        for mirror in mirrors:
            try:
                return await self._resolve_at(mirror, request, 1)
            except SampanError:
                continue  # whatever is wrong with a mirror: the registry itself is asked
        try:
            return await self._resolve_at(home, request, request.where.policy.attempts)
        except SampanError as error:
            raise denied(error, request.where, request.reference) from error

    async def _resolve_at(
        self, repository: Repository, request: messages.Resolve, attempts: int
    ) -> Event:
        top = await self._manifest(repository, request.reference, request.number, attempts)
        chosen = top
        if not request.whole and oci.is_index(top.media_type):
            return messages.Resolved(number=request.number, top=top, manifest=top, config=b"")
        for _ in range(_DEPTH):
            if not oci.is_index(chosen.media_type):
                break
            digest = _choose(chosen, request)
            chosen = await self._manifest(repository, digest, request.number, attempts)
        else:
            raise Corrupt(f"{request.reference}: indexes more than {_DEPTH} deep")
        config = _checked(_decode(chosen, oci.Manifest).config, chosen)
        if config.size > MANIFEST_LIMIT:
            raise SampanError(
                f"configuration {config.digest}: {config.size} bytes; more than {MANIFEST_LIMIT} "
                "are refused"
            )
        data = await retry(
            lambda: repository.blob(config.digest), attempts, self._waiting(request.number)
        )
        return messages.Resolved(number=request.number, top=top, manifest=chosen, config=data)

    async def _manifest(
        self, repository: Repository, reference: str, number: int, attempts: int
    ) -> Document:
        return await retry(
            lambda: repository.manifest(reference), attempts, self._waiting(number), first=True
        )

    async def _tags(self, request: messages.ListTags) -> Event:
        home = (await self._repositories(request.where))[-1]
        try:
            tags = await self._retried(request, request.where.policy, home.tags)
        except SampanError as error:
            raise denied(error, request.where) from error
        return messages.Tags(number=request.number, tags=tuple(tags))

    async def _put_manifest(self, request: messages.PutManifest) -> Event:
        (home,) = await self._repositories(request.where)

        async def put() -> None:
            await home.put_manifest(request.reference, request.document)

        await self._retried(request, request.where.policy, put)
        return messages.Stored(number=request.number)

    async def _check(self, request: messages.Check) -> Event:
        # Not a session kept: it would answer with what it knows.
        pool, hosts = self._pool(request.where.policy)
        endpoints = await hosts.endpoints(request.where.domain, mirrors=False)
        session = Session(pool, hosts, endpoints, request.where.credentials)
        await session.ping()
        return messages.Checked(
            number=request.number, identity_token=await session.authorizer.offline_token()
        )

    async def _search(self, request: messages.Search) -> Event:
        pool, hosts = self._pool(request.where.policy)
        domain = request.where.domain
        index = INDEX if domain == DEFAULT_DOMAIN else domain
        endpoints = await hosts.endpoints(index, mirrors=False)
        session = Session(pool, hosts, endpoints, request.where.credentials)

        hits = await search(session, request.text, request.limit)
        return messages.Searched(number=request.number, hits=tuple(hits))

    async def _retried(
        self, request: Request, policy: Policy, work: Callable[[], Awaitable[T]]
    ) -> T:
        return await retry(work, policy.attempts, self._waiting(request.number))

    def _waiting(self, number: int) -> Callable[[float, SampanError], None]:
        return lambda seconds, error: self._tell(
            messages.Waiting(number=number, seconds=seconds, reason=error.message)
        )


def _failure(number: int, error: SampanError) -> Event:
    """By the class of ``sampan.errors`` that the daemon knows it by."""
    kind = next(one for one in type(error).__mro__ if one.__module__ == SampanError.__module__)
    return messages.Failed(number=number, kind=kind.__name__, message=error.message)


def _decode(document: Document, kind: type[R]) -> R:
    try:
        return kind.from_json(msgspec.json.decode(document.data))
    except (SampanError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"manifest {document.digest}: {error}") from error


def _choose(document: Document, request: messages.Resolve) -> str:
    index = _decode(document, oci.Index)
    images = [item for item in index.manifests if oci.is_manifest(item.media_type)]
    images += [item for item in index.manifests if oci.is_index(item.media_type)]
    found = select(images, request.platform)
    if found is None:
        raise NotFound(f"no matching manifest for {request.platform} in the manifest list entries")
    return _checked(found, document).digest


def _checked(descriptor: oci.Descriptor, document: Document) -> oci.Descriptor:
    """A digest becomes a part of an address: it has to be one."""
    if not digests.is_digest(descriptor.digest):
        raise Corrupt(f"manifest {document.digest}: {descriptor.digest[:200]!r} is not a digest")
    return descriptor
