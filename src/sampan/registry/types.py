"""What crosses the border between the daemon and its carrier."""

from __future__ import annotations

import msgspec

__all__ = ["HUB", "MANIFEST_LIMIT", "Credentials", "Document", "Hit"]

MANIFEST_LIMIT = 4 << 20
"""Bytes of a manifest, an index or a configuration; the distribution specification's advice."""


HUB = "registry-1.docker.io"
"""Where Docker Hub's registry is."""


class Credentials(msgspec.Struct, frozen=True):
    """For one registry: a password, a refresh token in its place, or a bearer token as it is."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, …)"


class Document(msgspec.Struct, frozen=True):
    """A manifest or index: its bytes, which are what the digest is of."""

    media_type: str
    digest: str
    data: bytes


class Hit(msgspec.Struct, frozen=True):
    """A repository that a search has found."""

    name: str
    description: str
    stars: int
    official: bool
    automated: bool
