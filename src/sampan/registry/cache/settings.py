"""What a cache is told: which registry, who it is there, and how long what it has is good."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from sampan.errors import Conflict, InvalidArgument
from sampan.oci.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN, OFFICIAL
from sampan.registry.client.proxies import is_loopback
from sampan.registry.server.policy.file import read_file
from sampan.registry.types import HUB, Credentials
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.registry.server.place import Place

__all__ = ["Settings", "claim", "read_credentials", "read_settings"]

_USER, _PASSWORD = "SAMPAN_PROXY_USERNAME", "SAMPAN_PROXY_PASSWORD"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``url`` without a path. Seconds: ``expiry`` until a tag is asked for again, ``keep`` until
    what nobody used is removed; ``size`` is the most bytes of blobs, or 0.
    """

    url: str
    credentials: Credentials
    expiry: float
    keep: float
    size: int

    def home(self, name: str) -> str:
        """What a repository is called there. Docker Hub has its own images below ``library/``:
        engines say so, people who write ``cache:5000/busybox`` do not.
        """
        if urlsplit(self.url).hostname == HUB and "/" not in name:
            return f"{OFFICIAL}{name}"
        return name


class _File(msgspec.Struct, forbid_unknown_fields=True):
    username: str
    password: str

    def __post_init__(self) -> None:
        for key in ("username", "password"):
            if not getattr(self, key):
                raise ValueError(f"{key}: may not be empty")


def read_settings(
    url: str, path: str, environment: Mapping[str, str], *, expiry: float, keep: float, size: int
) -> Settings:
    """Raises InvalidArgument."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise InvalidArgument(f"--proxy {url}: write https://HOST[:PORT]; credentials have a file")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InvalidArgument(f"--proxy {url}: nothing may stand behind the host")
    credentials = Credentials()
    if path:
        credentials = read_credentials(path)
    elif environment.get(_USER):
        credentials = Credentials(environment[_USER], environment.get(_PASSWORD, ""))
    if credentials and parts.scheme == "http" and not is_loopback(parts.hostname):
        raise InvalidArgument(f"--proxy {url}: the password would travel in the clear: use https")
    place = parts.netloc.lower()
    if parts.hostname in (DEFAULT_DOMAIN, LEGACY_DOMAIN):
        place = HUB  # as it is meant: there is no registry at the other names
    if not keep:
        raise InvalidArgument("--proxy-keep: a cache that keeps nothing is none")
    return Settings(
        url=f"{parts.scheme}://{place}",
        credentials=credentials,
        expiry=expiry,
        keep=keep,
        size=size,
    )


def read_credentials(path: str) -> Credentials:
    """Raises InvalidArgument, which has no value of the file in it."""
    found = read_file(path, "--proxy-credentials", _File)
    return Credentials(found.username, found.password)


def claim(place: Place, url: str) -> None:
    """Mark a new root as the cache of ``url``; "" for one that is none. Raises Conflict.

    What a cache has goes when nobody uses it; what was pushed does not. And what one registry has
    under a name is not another's.
    """
    if place.upstream == url:
        return
    if place.upstream:
        hint = "give the other one a root of its own" if url else "serve it with --proxy"
        raise Conflict(f"{place.root} is a cache of {place.upstream}: {hint}")
    if place.database.row("SELECT 1 FROM repositories LIMIT 1") is not None:
        raise Conflict(f"{place.root} has images of its own: give the cache another root")
    path = os.path.join(place.root, "upstream")
    try:
        descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, url.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(f"{path}.new", path)
    except OSError as error:
        raise explain(error, "open", path, "while making the cache") from error
    place.upstream = url
