"""What ``manifest``, ``registry ls`` and ``registry tags`` ask of registries, as the daemon's
carrier asks them.

The one place where this client loads ``sampan.registry`` (docs/decisions/0021): its rules for
tokens, redirects, certificates, digests and sizes are not to be written twice. Credentials are this
user's; the daemon is not asked, and need not be there.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sampan.cli.credentials import Keeper, server_of
from sampan.cli.manifests import ImageManifest, platform_of
from sampan.errors import (
    Corrupt,
    NotFound,
    NotSupported,
    PermissionDenied,
    SampanError,
    Unauthenticated,
)
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.registry.client.errors import Missing, NotHttp
from sampan.registry.client.hosts import Hosts
from sampan.registry.client.http import Pool
from sampan.registry.client.proxies import Proxies
from sampan.registry.client.repository import Repository
from sampan.registry.client.retries import retry
from sampan.registry.client.session import Session
from sampan.registry.client.tls import Trust
from sampan.registry.client.upload import mount
from sampan.registry.policy import Policy
from sampan.registry.types import Credentials, Document

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sampan.cli.settings import Settings
    from sampan.oci.reference import Reference

__all__ = ["entries", "images", "look_up", "push"]

T = TypeVar("T")
_PAGE_BYTES = 16 << 20


def images(
    settings: Settings, references: Sequence[Reference], *, insecure: bool
) -> list[ImageManifest]:
    """The manifests of images. Raises NotFound, SampanError for what is a list."""

    async def work() -> list[ImageManifest]:
        registries = Registries(settings, insecure)
        try:
            return [await registries.image(reference) for reference in references]
        finally:
            registries.close()

    return asyncio.run(work())


def look_up(
    settings: Settings, reference: Reference, *, insecure: bool
) -> ImageManifest | list[ImageManifest]:
    """An image's manifest, or those of a list. Raises NotFound."""

    async def work() -> ImageManifest | list[ImageManifest]:
        registries = Registries(settings, insecure)
        try:
            document = await registries.document(reference)
            if oci.is_index(document.media_type):
                return await registries.members(reference, document)
            return await registries.described(reference, document)
        finally:
            registries.close()

    return asyncio.run(work())


def push(
    settings: Settings,
    target: Reference,
    manifests: Sequence[ImageManifest],
    document: tuple[str, str],
    *,
    insecure: bool,
) -> None:
    """Have every image in the list's own repository, then the list, and print their digests."""

    async def work() -> None:
        registries = Registries(settings, insecure)
        try:
            others = [one for one in manifests if one.reference.path != target.path]
            for one in others:
                await registries.mount(target, one)
            for one in others:
                kind = str(one.descriptor["mediaType"])
                found = Document(kind, one.digest, one.raw)
                await registries.put(target, one.digest, found)
                place = target.replace(tag=None, digest=one.digest)
                print(f"Pushed ref {place} with digest: {one.digest}", flush=True)
            data = document[1].encode()
            whole = Document(document[0], digests.of(data), data)
            await registries.put(target, target.digest or target.tag or "", whole)
            print(whole.digest)
        finally:
            registries.close()

    return asyncio.run(work())


def entries(
    settings: Settings,
    place: Reference,
    target: str,
    *,
    key: str,
    scope: str,
    limit: int,
    insecure: bool,
) -> list[dict[str, Any]]:
    """What a registry of our kind lists under ``key``, page by page; at most ``limit``, or all of
    it. Raises NotSupported, NotFound.
    """

    async def page(session: Session, target: str) -> dict[str, Any]:
        async with session.request("GET", target, scopes=(scope,)) as response:
            known = "docker-distribution-api-version" in response.head.fields
            data = await response.read(_PAGE_BYTES)
            if response.status == 404 and b"NAME_UNKNOWN" not in data:
                raise NotSupported(f"{place.domain} is not a registry of Sampan: it cannot list so")
            if response.status != 200:
                words = _message(data) or f"status {response.status}"
                kind = {403: PermissionDenied, 404: NotFound}.get(response.status, SampanError)
                raise kind(f"{response.url.shown}: {words}")
        try:
            found = json.loads(data)
            if known and isinstance(found[key], list):
                return dict(found)
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise Corrupt(f"{response.url.shown}: not a list of {key}: {error}") from error
        raise NotSupported(f"{place.domain} is not a registry of Sampan: it cannot list so")

    async def work() -> list[dict[str, Any]]:
        registries = Registries(settings, insecure)
        found: list[dict[str, Any]] = []
        following = target
        try:
            session = await registries.session(place)
            while following:
                said = await registries.tried(place, partial(page, session, following))
                found += said[key]
                following = str(said.get("next") or "") if said[key] else ""
                if limit and len(found) >= limit:
                    return found[:limit]
            return found
        finally:
            registries.close()

    return asyncio.run(work())


def _message(data: bytes) -> str:
    """The first of an error document."""
    try:
        return str(json.loads(data)["errors"][0]["message"])
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""


class Registries:
    """Sessions with those that one command names."""

    def __init__(self, settings: Settings, insecure: bool) -> None:
        self._settings = settings
        self._insecure = insecure
        self._sessions: dict[str, Session] = {}
        self._pools: list[Pool] = []

    def close(self) -> None:
        for pool in self._pools:
            pool.close()

    async def session(self, reference: Reference) -> Session:
        session = self._sessions.get(reference.domain)
        if session is None:
            policy = Policy(
                insecure=(reference.domain,) if self._insecure else (),
                proxies=Proxies.of(os.environ),
            )
            pool, hosts = Pool(Trust(policy.certs), policy.proxies), Hosts(policy)
            self._pools.append(pool)
            found = Keeper(self._settings).get(server_of(str(reference)))
            credentials = (
                Credentials(found.username, found.password, found.token) if found else Credentials()
            )
            endpoints = await hosts.endpoints(reference.domain, mirrors=False)
            session = self._sessions[reference.domain] = Session(
                pool, hosts, endpoints, credentials
            )
        return session

    async def repository(self, reference: Reference) -> Repository:
        return Repository(await self.session(reference), reference.path)

    async def tried(self, reference: Reference, work: Callable[[], Awaitable[T]]) -> T:
        """Do it, again where that may help; an error says what to do about it."""
        try:
            return await retry(work, Policy().attempts, first=True)
        except SampanError as error:
            raise self.explained(error, reference) from error

    def explained(self, error: SampanError, *references: Reference) -> SampanError:
        """An error that says what to do, of the one of these images that it is about."""
        reference = next((one for one in references if one.domain in str(error)), references[0])
        if isinstance(error, Missing):
            return NotFound(f"no such manifest: {reference}")
        if isinstance(error, (Unauthenticated, PermissionDenied)):
            server = "" if server_of(str(reference)) != reference.domain else f" {reference.domain}"
            return Unauthenticated(f"{error}: log in with 'sampan login{server}'")
        distrusted = isinstance(error, NotHttp) or isinstance(error.__cause__, ssl.SSLError)
        if distrusted and not self._insecure:
            return SampanError(f"{error}: use --insecure if the registry is meant to be so")
        return error

    async def document(self, reference: Reference, by: str = "") -> Document:
        """What a name stands for; ``by`` another digest of the same repository."""
        repository = await self.repository(reference)
        wanted = by or reference.digest or reference.tag or ""
        return await self.tried(reference, lambda: repository.manifest(wanted))

    async def image(self, reference: Reference) -> ImageManifest:
        document = await self.document(reference)
        if oci.is_index(document.media_type):
            raise SampanError(f"{reference} is a manifest list")
        return await self.described(reference, document)

    async def described(self, reference: Reference, document: Document) -> ImageManifest:
        """With the platform that the image's configuration names."""
        config = _decoded(document, oci.Manifest).config
        if not digests.is_digest(config.digest):
            raise Corrupt(f"manifest {document.digest}: {config.digest[:200]!r} is not a digest")
        repository = await self.repository(reference)
        data = await self.tried(reference, lambda: repository.blob(config.digest))
        try:
            platform = platform_of(json.loads(data))
        except (ValueError, RecursionError, SampanError) as error:
            raise Corrupt(f"{reference}: configuration {config.digest}: {error}") from error
        return _manifest(reference, document, platform)

    async def members(self, reference: Reference, document: Document) -> list[ImageManifest]:
        """The images of a list, with the platforms it gives them."""
        found = []
        entries = json.loads(document.data).get("manifests") or []
        for known, entry in zip(_decoded(document, oci.Index).manifests, entries, strict=True):
            if not digests.is_digest(known.digest):
                raise Corrupt(f"list {document.digest}: {known.digest[:200]!r} is not a digest")
            member = await self.document(reference, known.digest)
            if oci.is_index(member.media_type):
                raise SampanError(f"{reference}: {known.digest} is a list within a list")
            platform = platform_of(entry.get("platform"))
            found.append(_manifest(reference.replace(digest=known.digest), member, platform))
        return found

    async def put(self, target: Reference, name: str, document: Document) -> None:
        if digests.of(document.data, document.digest) != document.digest:
            raise Corrupt(f"manifest {document.digest} is not what it was when it was fetched")
        repository = await self.repository(target)
        await self.tried(target, lambda: repository.put_manifest(name, document))

    async def mount(self, target: Reference, image: ImageManifest) -> None:
        """Have the registry take an image's blobs over from its repository."""
        repository = await self.repository(target)
        for digest in image.blobs():
            if not digests.is_digest(digest):
                raise Corrupt(f"manifest {image.reference}: {digest[:200]!r} is not a digest")

            async def take(digest: str = digest) -> bool:
                if await repository.has_blob(digest):
                    return True
                origin, begun = await mount(repository, digest, [image.reference.path])
                if begun is not None:
                    async with repository.session.request(
                        "DELETE", begun, scopes=repository.push
                    ) as response:
                        await response.read(1 << 16, cut=True)
                return bool(origin)

            # Base layers of Windows are nobody's to copy: a registry may be without them.
            if not await self.tried(target, take) and image.platform.get("os") != "windows":
                raise SampanError(
                    f"error mounting {image.reference.name}@{digest} to {target}: the registry "
                    f"does not take it over: push the image to {target.familiar_name} first"
                )


def _manifest(reference: Reference, document: Document, platform: dict[str, Any]) -> ImageManifest:
    descriptor = {
        "mediaType": document.media_type,
        "digest": document.digest,
        "size": len(document.data),
        "platform": platform,
    }
    return ImageManifest(reference, descriptor, document.data)


def _decoded(document: Document, kind: type[Any]) -> Any:
    try:
        return kind.from_json(json.loads(document.data))
    except (ValueError, RecursionError, SampanError) as error:
        raise Corrupt(f"manifest {document.digest}: {error}") from error
