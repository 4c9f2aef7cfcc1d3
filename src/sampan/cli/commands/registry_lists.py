"""registry ls and registry tags: what a registry of this project's has, and a repository's tags;
registry rm: tags and manifests removed from any registry.
"""

from __future__ import annotations

import time
import urllib.parse
from typing import TYPE_CHECKING, Any

from sampan.cli.commands.common import FORMAT, read
from sampan.cli.flags import Flag
from sampan.cli.output import age, print_rows, short_id, shorten, size, timestamp
from sampan.errors import InvalidArgument
from sampan.oci import reference as references

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.cli.client import Client
    from sampan.cli.flags import Values

__all__ = ["remove", "repositories", "tags"]

_WIDTH = 45
_PLATFORMS = 3
_PAGE = 1000
_INSECURE = Flag("insecure", "bool", "Take any certificate, and plain HTTP, from the registry")
_QUIET = Flag("quiet", "bool", "Names only", short="q")
_WHOLE = Flag("no-trunc", "bool", "Whole descriptions, digests and platforms")


def remove(client: Client, argv: list[str]) -> int:
    """``registry rm``"""
    flags = read(
        "registry rm",
        "[OPTIONS] NAME:TAG|NAME@DIGEST [...]",
        "Remove tags, or manifests with all their tags, from a registry",
        [_INSECURE],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    names = [references.parse(text) for text in flags.arguments]
    for name in names:
        if name.tag is None and name.digest is None:
            raise InvalidArgument(f"{name}: say which: its tag, or its digest")
    from sampan.cli.commands import image_registry

    image_registry.remove(client.settings, names, insecure=flags.flag("insecure"))
    return 0


def repositories(client: Client, argv: list[str]) -> int:
    """``registry ls``"""
    flags = read(
        "registry ls",
        "[OPTIONS] HOST[:PORT] [TERM]",
        "List a registry's repositories: all that one may pull, or those with a term",
        [
            FORMAT,
            _INSECURE,
            Flag("limit", "int", "At most so many; 0 for all (100)"),
            _WHOLE,
            _QUIET,
        ],
        argv,
        least=1,
        most=2,
    )
    if flags is None:
        return 0
    host, *term = flags.arguments
    if not references.is_domain(host):
        raise InvalidArgument(f'"{host}" is not a registry\'s address: expected HOST[:PORT]')
    limit = _limit(flags)
    query = {"n": min(limit or _PAGE, _PAGE), **({"q": term[0]} if term else {})}
    target = f"/api/v1/repositories?{urllib.parse.urlencode(query)}"
    place = references.Reference(domain=host, path="catalogue")
    scope = "registry:catalog:list"
    rows = [
        {
            "Name": str(one["name"]),
            "Tags": str(one["tags"]),
            "Description": _text(str(one["description"]), flags, _WIDTH),
            "Pulls": str(one["pulls"]),
            "Platforms": _platforms(one["platforms"], flags),
            "Changed": _ago(one["changed"]),
            "ChangedAt": str(one["changed"]),
        }
        for one in _entries(client, place, target, flags, key="repositories", scope=scope)
    ]
    columns = [
        ("NAME", "Name"),
        ("TAGS", "Tags"),
        ("CHANGED", "Changed"),
        ("PULLS", "Pulls"),
        ("DESCRIPTION", "Description"),
    ]
    print_rows(rows, columns, flags.text("format"), flags.flag("quiet"))
    return 0


def tags(client: Client, argv: list[str]) -> int:
    """``registry tags``"""
    flags = read(
        "registry tags",
        "[OPTIONS] HOST[:PORT]/NAME [TERM]",
        "List a repository's tags: all, or those with a term in their name",
        [
            FORMAT,
            _INSECURE,
            Flag("limit", "int", "At most so many; 0 for all (100)"),
            _WHOLE,
            Flag("order", "str", "version, name or pushed (version: the newest first)"),
            _QUIET,
        ],
        argv,
        least=1,
        most=2,
    )
    if flags is None:
        return 0
    name, *term = flags.arguments
    place = references.parse(name)
    if place.tag or place.digest:
        raise InvalidArgument(f"{name}: name a repository, without a tag")
    limit = _limit(flags)
    query = {
        "n": min(limit or _PAGE, _PAGE),
        "order": flags.text("order") or "version",
        **({"q": term[0]} if term else {}),
    }
    target = f"/api/v1/repositories/{place.path}/tags?{urllib.parse.urlencode(query)}"
    scope = f"repository:{place.path}:pull"
    rows = [
        {
            "Tag": str(one["name"]),
            "Digest": str(one["digest"]) if flags.flag("no-trunc") else short_id(one["digest"]),
            "Size": size(int(one["size"])),
            "Platforms": _platforms(one["platforms"], flags),
            "Pushed": _ago(one["pushed"]),
            "PushedAt": str(one["pushed"]),
            "Pulls": str(one["pulls"]),
            "Pulled": _ago(one["pulled"]),
            "MediaType": str(one["mediaType"]),
            "ArtifactType": str(one["artifactType"]),
            "Referrers": str(one["referrers"]),
        }
        for one in _entries(client, place, target, flags, key="tags", scope=scope)
    ]
    columns = [
        ("TAG", "Tag"),
        ("DIGEST", "Digest"),
        ("PLATFORMS", "Platforms"),
        ("PUSHED", "Pushed"),
        ("PULLS", "Pulls"),
        ("SIZE", "Size"),
    ]
    print_rows(rows, columns, flags.text("format"), flags.flag("quiet"))
    return 0


def _entries(
    client: Client, place: references.Reference, target: str, flags: Values, *, key: str, scope: str
) -> list[dict[str, Any]]:
    from sampan.cli.commands import manifest_registry

    return manifest_registry.entries(
        client.settings,
        place,
        target,
        key=key,
        scope=scope,
        limit=_limit(flags),
        insecure=flags.flag("insecure"),
    )


def _limit(flags: Values) -> int:
    found = flags.number("limit", 100)
    if found < 0:
        raise InvalidArgument(f"--limit {found}: expected a number of entries, 0 for all")
    return found


def _text(text: str, flags: Values, width: int) -> str:
    """One line; what would move a terminal's cursor is a space."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if flags.flag("no-trunc") else shorten(plain, width)


def _platforms(names: Sequence[str], flags: Values) -> str:
    most = len(names) if flags.flag("no-trunc") else _PLATFORMS
    more = f" +{len(names) - most}" if len(names) > most else ""
    return _text(", ".join(map(str, names[:most])) + more, flags, _WIDTH)


def _ago(text: str | None) -> str:
    return f"{age(time.time() - timestamp(text))} ago" if text else "never"
