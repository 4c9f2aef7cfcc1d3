"""Who may do what with which repositories.

Without a file of rules whoever has an account may do everything, and whoever has none nothing, or
pull. With one (TOML), somebody may do what any rule allows him::

    [[rule]]
    users = ["anna", "ci-*"]          # "*": every account; "anonymous": whoever has none
    repositories = ["team/*"]         # "*" within a pattern is any text, slashes too
    actions = ["pull", "push"]        # pull, push, delete, or "*"

Lists over everything (the catalog, search) are for those who may pull every repository.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.registry.server.policy.file import matcher, read_file

if TYPE_CHECKING:
    import re

__all__ = ["ACTIONS", "ANONYMOUS", "Rule", "Rules", "read_rules", "simple_rules"]

ACTIONS = ("pull", "push", "delete")
ANONYMOUS = "anonymous"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    users: tuple[str, ...]
    repositories: tuple[str, ...]
    actions: tuple[str, ...]

    def __post_init__(self) -> None:
        for key in ("users", "repositories", "actions"):
            if not getattr(self, key):
                raise ValueError(f"{key}: at least one")
        for action in self.actions:
            if action not in (*ACTIONS, "*"):
                raise ValueError(
                    f'actions: "{action}" is no action: use {", ".join(ACTIONS)} or "*"'
                )


class _File(msgspec.Struct, forbid_unknown_fields=True):
    rule: tuple[Rule, ...]


class Rules:
    """``user`` is an account's name, or empty for whoever has none."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = [(matcher(rule.users), matcher(rule.repositories), rule) for rule in rules]

    def allowed(self, user: str, repository: str) -> frozenset[str]:
        """The actions."""
        return frozenset(
            action
            for users, repositories, rule in self._rules
            if _is_user(user, users, rule) and repositories.fullmatch(repository)
            for action in (ACTIONS if "*" in rule.actions else rule.actions)
        )

    def sees_all(self, user: str) -> bool:
        """May pull every repository."""
        return any(
            _is_user(user, users, rule)
            and "*" in rule.repositories
            and ("*" in rule.actions or "pull" in rule.actions)
            for users, _, rule in self._rules
        )

    def sees_any(self, user: str) -> bool:
        """May pull something, if there is such a repository."""
        return any(
            _is_user(user, users, rule) and ("*" in rule.actions or "pull" in rule.actions)
            for users, _, rule in self._rules
        )


def _is_user(user: str, users: re.Pattern[str], rule: Rule) -> bool:
    return users.fullmatch(user) is not None if user else ANONYMOUS in rule.users


def simple_rules(*, anonymous_pull: bool) -> Rules:
    """Accounts may do everything."""
    rules = [Rule(("*",), ("*",), ("*",))]
    if anonymous_pull:
        rules.append(Rule((ANONYMOUS,), ("*",), ("pull",)))
    return Rules(tuple(rules))


def read_rules(path: str) -> Rules:
    """Raises InvalidArgument."""
    return Rules(read_file(path, "--access", _File).rule)
