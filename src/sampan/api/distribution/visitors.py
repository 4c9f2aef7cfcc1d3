"""Who asks, and what he may do: by the rules, by a token, or all of it without accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.registry.server.access.rules import Rules
    from sampan.registry.server.access.tokens import Claims

__all__ = ["CATALOG", "EVERYBODY", "LIST", "Account", "Bearer", "Lister", "Visitor"]

CATALOG = "catalog"
LIST = "list"
"""To be told of repositories: of those that one may pull."""


class Visitor(Protocol):
    """Who asks: ``user`` is empty for whoever did not say."""

    user: str

    def may(self, repository: str, action: str) -> bool: ...

    def sees_all(self) -> bool:
        """May pull every repository."""
        ...


class _Everybody:
    """Of a registry without authentication."""

    user = ""

    def may(self, repository: str, action: str) -> bool:
        return True

    def sees_all(self) -> bool:
        return True


EVERYBODY: Visitor = _Everybody()


class Account:
    """By the rules, as they are now."""

    def __init__(self, user: str, rules: Rules) -> None:
        self.user = user
        self._rules = rules

    def may(self, repository: str, action: str) -> bool:
        return action in self._rules.allowed(self.user, repository)

    def sees_all(self) -> bool:
        return self._rules.sees_all(self.user)


class Bearer:
    """By a token: one of ours, as the rules were when it was given, or another server's."""

    def __init__(self, claims: Claims, home: Callable[[str], str], *, foreign: bool) -> None:
        self.user = claims.sub
        self.foreign = foreign
        self._home = home
        self._access = claims.access

    def may(self, repository: str, action: str) -> bool:
        return any(
            one.type == "repository"
            and self._home(one.name) == repository
            and (action in one.actions or "*" in one.actions)
            for one in self._access
        )

    def sees_all(self) -> bool:
        return self._catalog("*")

    def lists(self) -> bool:
        """May ask which repositories there are."""
        return self._catalog("*") or self._catalog(LIST)

    def _catalog(self, action: str) -> bool:
        return any(
            one.type == "registry" and one.name == "catalog" and action in one.actions
            for one in self._access
        )


class Lister:
    """Who is told of repositories by another server's token: our rules do not know its bearer, even
    where one of our accounts has the same name.
    """

    def __init__(self, bearer: Bearer) -> None:
        self.user = bearer.user
        self._bearer = bearer

    def may(self, repository: str, action: str) -> bool:
        return (action == "pull" and self.sees_all()) or self._bearer.may(repository, action)

    def sees_all(self) -> bool:
        return self._bearer.sees_all()
