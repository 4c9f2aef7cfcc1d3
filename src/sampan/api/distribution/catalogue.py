"""``/api/v1``: what the distribution specification has no words for, in JSON, for people's tools
and for the page at ``/``. Reading only.

* ``/api/v1/repositories``: those that the visitor may pull; ``q`` searches, the best first.
* ``/api/v1/repositories/<name>/tags``: with sizes, platforms, digests, ages and pulls; in the
  ``order`` of versions, of names, or as they were pushed; ``q`` is in their names.
* ``/api/v1/repositories/<name>/manifests/<reference>``: all there is to know of one.
  It counts as no pull.

A page has ``n`` entries; ``next``, and the field Link, lead to the one behind it. Times are as in
RFC 3339.
"""

from __future__ import annotations

import math
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.api.distribution.context import Context, Refusal400, reply
from sampan.oci.image import is_index
from sampan.registry.server import catalogue, details

if TYPE_CHECKING:
    from sampan.api.http.messages import Response

__all__ = ["manifest", "repositories", "tags"]

_PAGE = 100
_MOST = 1000
_FIELDS = {"Cache-Control": "no-store"}


async def repositories(context: Context) -> Response:
    query = context.request.query
    limit = max(1, context.number("n", _PAGE, _MOST))
    text = (query.get("q") or "").strip()
    visitor = context.visitor

    def sees(name: str) -> bool:
        return visitor.may(name, "pull")

    following: dict[str, object] = {"n": limit}
    if text:
        offset = context.number("offset", 0, 1 << 30)
        found, more = await context.run(
            catalogue.find, context.registry.place, text, limit, offset, sees
        )
        following |= {"q": text, "offset": offset + limit}
    else:
        last = query.get("last") or ""
        found, more = await context.run(
            catalogue.repositories, context.registry.place, limit, last, sees
        )
        following["last"] = found[-1].name if found else ""
    said = {"repositories": [_repository(one) for one in found]}
    return _page(context, said, following if more else None)


async def tags(context: Context) -> Response:
    query = context.request.query
    limit = max(1, context.number("n", _PAGE, _MOST))
    order = query.get("order") or "version"
    if order not in catalogue.ORDERS:
        raise Refusal400(f"order={order}: use {', '.join(catalogue.ORDERS)}")
    text = (query.get("q") or "").strip()
    place, name = context.registry.place, context.name
    of = await context.run(catalogue.repository, place, name)
    found = await context.run(
        catalogue.tags,
        place,
        name,
        limit,
        order=order,
        text=text,
        last=query.get("last") or "",
        at=_moment(query.get("at")),
    )
    said = {"repository": _repository(of), "tags": [_tag(one) for one in found.tags]}
    following: dict[str, object] | None = None
    if found.more:
        end = found.tags[-1]
        following = {"n": limit, "order": order, "last": end.name}
        following |= {"q": text} if text else {}
        following |= {"at": repr(end.changed)} if order == "pushed" else {}
    return _page(context, said, following)


async def manifest(context: Context) -> Response:
    registry, name = context.registry, context.name
    digest = (await context.read(registry.manifests.get, name, context.reference, head=True)).digest
    found = await context.load(details.describe, registry, name, digest)
    said: dict[str, Any] = msgspec.to_builtins(found)
    said |= {
        "repository": name,
        "pushed": _when(found.pushed),
        "pulled": _when(found.pulled),
        "isIndex": is_index(found.media_type),
    }
    return reply(said, headers=_FIELDS)


def _repository(one: catalogue.Repository) -> dict[str, object]:
    return one._asdict() | {"changed": _when(one.changed)}


def _tag(one: catalogue.Tag) -> dict[str, object]:
    return {
        "name": one.name,
        "digest": one.digest,
        "mediaType": one.media_type,
        "artifactType": one.artifact_type,
        "platforms": one.platforms,
        "size": one.size,
        "pushed": _when(one.changed),
        "pulls": one.pulls,
        "pulled": _when(one.pulled),
        "referrers": one.referrers,
    }


def _page(context: Context, said: dict[str, Any], following: dict[str, object] | None) -> Response:
    fields = dict(_FIELDS)
    said["next"] = None
    if following is not None:
        fields["Link"] = context.next_link(**following)
        path = urllib.parse.quote(context.request.path)
        said["next"] = f"{path}?{urllib.parse.urlencode(following)}"
    return reply(said, headers=fields)


def _when(seconds: float | None) -> str | None:
    """To the second; the registry's clock."""
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _moment(text: str | None) -> float:
    try:
        found = float(text or 0)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise Refusal400(f"at={text}: expected what the page before said")
    return found
