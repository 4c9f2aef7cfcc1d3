"""Names of images: ``[domain[:port]/]path[:tag][@digest]``.

The grammar is the distribution project's, which Docker and every registry use; on top of it comes
Docker's *familiar* form: ``busybox`` is ``docker.io/library/busybox``. The first component is a
domain only if it holds a dot, a colon or an upper-case letter, or is ``localhost``. Without tag and
digest, ``latest`` is meant. Messages begin with "invalid reference format", which clients show.
"""

from __future__ import annotations

import re

from sampan.errors import InvalidArgument
from sampan.oci import digest as digests
from sampan.oci.record import Record

__all__ = [
    "DEFAULT_DOMAIN",
    "DEFAULT_TAG",
    "LEGACY_DOMAIN",
    "OFFICIAL",
    "Reference",
    "is_domain",
    "is_path",
    "is_tag",
    "parse",
]

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL = "library/"
_NAME_LIMIT = 255
_SHOWN = 300

_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"

_is_tag = re.compile(_TAG).fullmatch
_is_domain = re.compile(_DOMAIN).fullmatch
_is_path = re.compile(_PATH).fullmatch
_is_identifier = re.compile(r"[a-f0-9]{64}").fullmatch


class Reference(Record):
    """A parsed name; ``tag`` and ``digest`` are as written, never defaulted."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """``docker.io/library/busybox``: without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """``busybox``: as people write it."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(OFFICIAL)
        return rest if "/" not in rest else self.path

    @property
    def familiar(self) -> str:
        """``busybox:1.36``, with what was given of tag and digest."""
        return self.familiar_name + self._suffix()

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return tag + (f"@{self.digest}" if self.digest is not None else "")

    def tagged(self) -> Reference:
        """With the default tag where neither tag nor digest was given."""
        if self.tag is None and self.digest is None:
            return self.replace(tag=DEFAULT_TAG)
        return self


def is_domain(text: str) -> bool:
    """Whether ``text`` is a registry's address: a name or an address, perhaps with a port."""
    return _is_domain(text) is not None


def is_path(text: str) -> bool:
    """Whether ``text`` is a repository's name on its registry."""
    return len(text) <= _NAME_LIMIT and _is_path(text) is not None


def is_tag(text: str) -> bool:
    """Whether ``text`` may stand behind the colon."""
    return _is_tag(text) is not None


def parse(text: str) -> Reference:
    """Parse a familiar or canonical name; ``InvalidArgument`` says what is wrong with it."""
    if not text:
        raise InvalidArgument("invalid reference format: the name is empty")
    if _is_identifier(text):
        raise InvalidArgument(
            f"invalid reference format: ({text}) cannot be a 64-digit hexadecimal string"
        )
    rest, at, digest = text.partition("@")
    if at and not digests.is_digest(digest):
        raise _invalid(text, f'"{_shown(digest)}" is not a digest')
    head, colon, tag = rest.rpartition(":")
    if colon and "/" not in tag:
        if not is_tag(tag):
            raise _invalid(text, f'"{_shown(tag)}" is not a tag')
        rest = head
    else:
        tag = ""
    domain, path = _split(rest)
    if path.lower() != path:
        raise InvalidArgument(
            f"invalid reference format: repository name ({_shown(rest)}) must be lowercase"
        )
    if not _is_domain(domain):
        raise _invalid(text, f'"{_shown(domain)}" is not a registry\'s address')
    if not _is_path(path):
        raise _invalid(text, f'"{_shown(rest)}" is not a repository\'s name')
    if len(domain) + len(path) + 1 > _NAME_LIMIT:
        raise _invalid(text, f"the repository's name is longer than {_NAME_LIMIT} characters")
    return Reference(domain=domain, path=path, tag=tag or None, digest=digest or None)


def _invalid(text: str, why: str) -> InvalidArgument:
    """Names all of it: a command may have been given several, and the shell may have cut one."""
    return InvalidArgument(f'invalid reference format: "{_shown(text)}": {why}')


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _split(name: str) -> tuple[str, str]:
    domain, slash, path = name.partition("/")
    is_host = "." in domain or ":" in domain or domain == "localhost" or domain.lower() != domain
    if not slash or not is_host:
        domain, path = DEFAULT_DOMAIN, name
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = OFFICIAL + path
    return domain, path
