"""Tags in the order of the versions they name, as a text that a database can sort by (no I/O).

A tag that is a version sorts as Semantic Versioning 2.0.0 has it (item 11): numbers as numbers, a
pre-release before its release, ``alpha.2`` before ``alpha.10`` before ``beta``. It may begin with a
v and have fewer or more than three numbers (3.12 is 3.12.0); behind ``_``, where tags cannot have
SemVer's ``+``, is what was built. Numbers within a word count as numbers too (rc9, rc10), where
SemVer would go by letters. docs/decisions/0026-order-of-tags.md says why this is no library.

The order, the last first in a list that has the newest first: tags that belong to a digest (the
fallback of referrers, cosign's), words, versions, ``latest``.
"""

from __future__ import annotations

import re

__all__ = ["is_attached", "sort_key"]

_ATTACHED = re.compile(r"sha(?:256|512)-[0-9a-f]{64,128}(?:\.[a-z]+)?")
# Letters directly behind the numbers ("3.13rc1") only where a dot says that they are a version:
# "3f2a9c1" is the beginning of a digest.
_VERSION = re.compile(
    r"[vV]?([0-9]{1,25}(?:\.[0-9]{1,25})*)(?:([-_.])([0-9A-Za-z._-]+)|([A-Za-z][0-9A-Za-z._-]*))?"
)
_RUN = re.compile(r"[0-9]+")
_END, _PRE, _RELEASE = "!", "-", "~"


def is_attached(tag: str) -> bool:
    """Whether the tag is there for a digest's sake, not for people."""
    return _ATTACHED.fullmatch(tag) is not None


def sort_key(tag: str) -> str:
    """In ASCII; what sorts later by its bytes is newer."""
    if tag == "latest":
        return "3"
    if is_attached(tag):
        return f"0{tag}"
    match = _VERSION.fullmatch(tag)
    if match is None or (match[4] and "." not in match[1]):
        return f"1{_natural(tag.lower())}"
    numbers = match[1].split(".")
    while numbers and not numbers[-1].strip("0"):
        numbers.pop()
    found = "2" + "".join(map(_number, numbers)) + _END
    rest = match[3] or match[4]
    if not rest:
        return found + _RELEASE
    if match[2] == "_":
        return f"{found}{_RELEASE}{_natural(rest)}"
    return found + _PRE + "".join(map(_identifier, rest.split("."))) + _END


def _identifier(text: str) -> str:
    """Of a pre-release: a number is before any word."""
    return f"0{_number(text)}" if _RUN.fullmatch(text) else f"1{_natural(text)}{_END}"


def _natural(text: str) -> str:
    return _RUN.sub(lambda match: f"0{_number(match[0])}", text)


def _number(digits: str) -> str:
    """A longer number sorts behind a shorter one: its length is a letter before it."""
    plain = digits.lstrip("0")
    return f"{chr(ord('A') + min(len(plain), 25))}{plain}"
