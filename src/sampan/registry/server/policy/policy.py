"""The file of ``--policy`` (docs/registry-server.md, "What stays, and how much").

A repository's name and a tag's are held against patterns: ``*`` is any text, slashes too. Each
struct checks its own values; what is wrong names its key, since the file's reader looks for that.
"""

from __future__ import annotations

import ipaddress

import msgspec

from sampan.registry.server.policy.file import matcher, read_file, seconds_of, size_of

__all__ = ["Immutable", "Policy", "Quota", "Rate", "Retention", "read_policy"]

_EVERY = ("*",)
_COUNTS = ("requests", "pulls", "logins")
ANONYMOUS = "anonymous"


class _Entry(msgspec.Struct, rename="kebab", forbid_unknown_fields=True, dict=True, kw_only=True):
    """What is about repositories."""

    repositories: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.repositories:
            raise ValueError("repositories: at least one pattern")
        self._about = matcher(self.repositories)

    def about(self, repository: str) -> bool:
        return self._about.fullmatch(repository) is not None


class Immutable(_Entry, kw_only=True):
    """Tags that never move; with ``delete`` they may be deleted."""

    tags: tuple[str, ...] = _EVERY
    delete: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tags = matcher(self.tags)

    def names(self, tag: str) -> bool:
        return self._tags.fullmatch(tag) is not None


class Retention(_Entry, kw_only=True):
    """Tags that go, unless one of its conditions keeps them. ``untagged`` is how long a manifest
    stays that no tag stands for and no index lists.
    """

    tags: tuple[str, ...] = _EVERY
    keep_last: int | None = None
    keep_for: str | None = None
    keep: tuple[str, ...] = ()
    untagged: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_last is not None and self.keep_last < 0:
            raise ValueError("keep-last: a number of tags cannot be negative")
        self.keep_seconds = None if self.keep_for is None else seconds_of("keep-for", self.keep_for)
        self.untagged_seconds = (
            None if self.untagged is None else seconds_of("untagged", self.untagged)
        )
        self._tags = matcher(self.tags)
        self._keep = matcher(self.keep) if self.keep else None
        if not self.removes_tags and self.untagged is None:
            raise ValueError(
                "says neither keep-last, keep-for nor keep: it would remove every tag; "
                "write keep-last = 0 if that is meant"
            )

    @property
    def removes_tags(self) -> bool:
        return self.keep_last is not None or self.keep_for is not None or bool(self.keep)

    def names(self, tag: str) -> bool:
        return self.removes_tags and self._tags.fullmatch(tag) is not None

    def keeps(self, tag: str) -> bool:
        """By its name."""
        return self._keep is not None and self._keep.fullmatch(tag) is not None


class Quota(_Entry, kw_only=True):
    """What each of the repositories may hold."""

    size: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bytes = size_of("size", self.size)


class Rate(
    msgspec.Struct, rename="kebab", forbid_unknown_fields=True, dict=True, kw_only=True, frozen=True
):
    """How many requests, pulls of manifests, or wrong passwords somebody may have."""

    users: tuple[str, ...] = (*_EVERY, ANONYMOUS)
    count: str = "requests"
    limit: int
    per: str

    def __post_init__(self) -> None:
        if self.count not in _COUNTS:
            raise ValueError(f'count: "{self.count}": use {", ".join(_COUNTS)}')
        if self.count == "logins" and self.users != (*_EVERY, ANONYMOUS):
            raise ValueError("users: who has a wrong password is nobody yet; leave it out")
        if self.limit < 1:
            raise ValueError("limit: at least 1")
        seconds = seconds_of("per", self.per)
        if not seconds:
            raise ValueError("per: at least 1s")
        self.__dict__.update(
            seconds=seconds, each=seconds / self.limit, matcher=matcher(self.users)
        )

    @property
    def seconds(self) -> float:
        return float(self.__dict__["seconds"])

    @property
    def each(self) -> float:
        """Seconds in which one grows back."""
        return float(self.__dict__["each"])

    def about(self, user: str) -> bool:
        if not user:
            return ANONYMOUS in self.users
        return bool(self.__dict__["matcher"].fullmatch(user))


class _File(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    immutable: tuple[Immutable, ...] = ()
    retention: tuple[Retention, ...] = ()
    quota: tuple[Quota, ...] = ()
    rate: tuple[Rate, ...] = ()
    trusted_proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in self.trusted_proxies:
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError as error:
                raise ValueError(f"trusted-proxies: {error}") from error


class Policy:
    """``path`` is where it was read from."""

    def __init__(self, file: _File | None = None) -> None:
        self._file = file or _File()
        self.rates = self._file.rate
        self.trusted_proxies = self._file.trusted_proxies

    def retention(self, repository: str) -> list[Retention]:
        """The rules that are about a repository."""
        return [rule for rule in self._file.retention if rule.about(repository)]

    def quota(self, repository: str) -> int | None:
        """Bytes, by the first rule that is about the repository."""
        for rule in self._file.quota:
            if rule.about(repository):
                return rule.bytes
        return None

    def is_immutable(self, repository: str, tag: str) -> bool:
        """It never moves."""
        return any(rule.about(repository) and rule.names(tag) for rule in self._file.immutable)

    def is_undeletable(self, repository: str, tag: str) -> bool:
        """It never moves, and does not go either."""
        return any(
            rule.about(repository) and rule.names(tag) and not rule.delete
            for rule in self._file.immutable
        )


def read_policy(path: str) -> Policy:
    """Raises InvalidArgument, which says on which line."""
    return Policy(read_file(path, "--policy", _File))
