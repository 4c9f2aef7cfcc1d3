"""``/api/v1/session``: how a browser's page logs in, whatever clients do (RFC 6265 cookies).

A form gives a name and a password once and gets a cookie: signed like our tokens, but for an
audience of its own, so it is neither a bearer token nor a refresh token. Scripts cannot read it
(HttpOnly), other sites cannot have it sent (SameSite=Strict), and it counts below ``/api`` only,
where everything only reads. What it allows is what the rules allow its user at that moment; a
changed password ends it. JSON is demanded because a form of another site cannot send that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.api.distribution.context import Context, reply
from sampan.api.http.messages import HttpError
from sampan.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from sampan.api.http.stream import Answer

__all__ = ["begin", "end", "show"]

_BODY = 16 * 1024
_FIELDS = {"Cache-Control": "no-store"}


class _Login(msgspec.Struct, forbid_unknown_fields=True):
    user: str
    password: str


async def show(context: Context) -> Answer:
    """Who asks, and whether it would help to be somebody."""
    gate = context.gate
    if gate is None:
        return reply({"accounts": False, "user": ""}, headers=_FIELDS)
    said = {"accounts": gate.has_accounts, "user": gate.session_user(context.request)}
    return reply(said, headers=_FIELDS)


async def begin(context: Context) -> Answer:
    if context.gate is None or not context.gate.has_accounts:
        raise NotFound("this registry has no accounts")
    request = context.request
    if request.media_type != "application/json":
        raise HttpError(415, "send name and password as application/json")
    try:
        wanted = msgspec.json.decode(await context.whole_body(_BODY), type=_Login)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"expected a user and a password: {error}") from error
    cookie = await context.gate.begin_session(request, wanted.user, wanted.password)
    context.trace.user = wanted.user
    said = {"accounts": True, "user": wanted.user}
    return reply(said, headers=_FIELDS | {"Set-Cookie": cookie})


async def end(context: Context) -> Answer:
    if context.gate is None or not context.gate.has_accounts:
        raise NotFound("this registry has no accounts")
    context.trace.user = context.gate.session_user(context.request)
    cookie = context.gate.end_session(context.request)
    return reply({"accounts": True, "user": ""}, headers=_FIELDS | {"Set-Cookie": cookie})
