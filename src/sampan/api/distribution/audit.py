"""Which requests are in the audit log, and as what.

Everything that changes something, every pull, every password; of the rest what was refused. Not
the first question of a client that does not say who it is: that is answered with how to do so, and
every login begins with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.api.distribution import blobs, manifests, session, uploads
from sampan.api.distribution.access import token
from sampan.api.http.messages import Response
from sampan.oci import digest as digests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sampan.api.distribution.context import Trace
    from sampan.api.http.messages import Request
    from sampan.api.http.stream import Answer

__all__ = ["GONE", "fields"]

_ACTIONS: Mapping[Callable[..., object], str] = {
    manifests.get: "pull",
    manifests.put: "push",
    manifests.delete: "delete",
    blobs.get: "pull blob",
    blobs.delete: "delete blob",
    uploads.begin: "push blob",
    uploads.finish: "push blob",
    token: "login",
    session.begin: "login",
    session.end: "logout",
}
_REFUSED = (401, 403, 405, 429)
GONE = 499
"""No status of HTTP: the client was gone before its answer was."""


def fields(
    request: Request, trace: Trace, status: int, answer: Answer | None
) -> Iterator[tuple[str, object]]:
    """Of the record; none where the request is not to be recorded."""
    action = _ACTIONS.get(trace.handler) if trace.handler is not None else None
    known = bool(trace.user) or "authorization" in request.headers or request.method == "POST"
    if status in _REFUSED:
        if status == 401 and not known:
            return
        action = action or request.method
    elif action is None or status == 304:
        return
    elif trace.handler is uploads.begin and status == 202:
        return  # nothing has come yet
    elif action == "login" and not (trace.user or status >= 400):
        return  # a token for whoever has no account
    if trace.handler is uploads.begin and request.query.get("mount") is not None:
        action = "mount blob"
        yield "from", request.query.get("from")
    yield "action", action
    yield "repository", trace.name
    yield from _what(request, trace, answer)
    yield "user", trace.user
    yield "account", trace.account
    yield "outcome", _outcome(status)
    yield "status", status
    yield "error", trace.said
    yield "agent", request.headers.get("user-agent", "")


def _what(request: Request, trace: Trace, answer: Answer | None) -> Iterator[tuple[str, object]]:
    """Tag and digest."""
    said = ""
    if isinstance(answer, Response):
        said = answer.headers.get("Docker-Content-Digest", "")
    if digests.is_digest(trace.reference):
        yield "digest", trace.reference
    elif trace.handler in (uploads.begin, uploads.finish):
        query = request.query
        yield "digest", said or query.get("digest") or query.get("mount")
    else:
        yield "tag", trace.reference
        yield "digest", said
    if trace.handler is manifests.put and request.query.all("tag"):
        yield "tags", request.query.all("tag")


def _outcome(status: int) -> str:
    if status == GONE:
        return "broken off"
    if status < 400:
        return "done"
    return "refused" if status < 500 else "failed"
