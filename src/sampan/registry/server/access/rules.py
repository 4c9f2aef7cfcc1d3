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

import re
import tomllib

import msgspec

from sampan.errors import InvalidArgument

__all__ = ["ACTIONS", "ANONYMOUS", "Rule", "Rules", "read_rules", "simple_rules"]

ACTIONS = ("pull", "push", "delete")
ANONYMOUS = "anonymous"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    users: tuple[str, ...]
    repositories: tuple[str, ...]
    actions: tuple[str, ...]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    rule: tuple[Rule, ...]


class Rules:
    """``user`` is an account's name, or empty for whoever has none."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = [(_matcher(rule.users), _matcher(rule.repositories), rule) for rule in rules]

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


def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(
        "|".join(".*".join(map(re.escape, pattern.split("*"))) for pattern in patterns), re.DOTALL
    )


def simple_rules(*, anonymous_pull: bool) -> Rules:
    """Accounts may do everything."""
    rules = [Rule(("*",), ("*",), ("*",))]
    if anonymous_pull:
        rules.append(Rule((ANONYMOUS,), ("*",), ("pull",)))
    return Rules(tuple(rules))


def read_rules(path: str) -> Rules:
    """Raises InvalidArgument."""
    try:
        with open(path, "rb") as file:
            found = msgspec.convert(tomllib.load(file), type=_File)
    except OSError as error:
        raise InvalidArgument(f"--access {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidArgument(f"--access {path}: {error}") from error
    for rule in found.rule:
        for action in rule.actions:
            if action not in (*ACTIONS, "*"):
                raise InvalidArgument(
                    f'--access {path}: "{action}" is no action: use {", ".join(ACTIONS)} or "*"'
                )
        if not (rule.users and rule.repositories and rule.actions):
            raise InvalidArgument(f"--access {path}: a rule without users, repositories or actions")
    return Rules(found.rule)
