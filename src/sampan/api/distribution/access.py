"""Authentication on the wire: Basic (RFC 7617), Bearer (RFC 6750), challenges, and ``/token``.

The token server is this one (the distribution project's "Token Authentication Specification", and
its OAuth2 form): a client without a token is told where to get one and for what; it gets one for as
much of that as it may do.
"""

from __future__ import annotations

import asyncio
import base64
import re
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from sampan.api.distribution.context import reply
from sampan.api.distribution.visitors import CATALOG, LIST, Account, Bearer, Lister
from sampan.errors import InvalidArgument, NotFound
from sampan.oci.reference import is_domain
from sampan.registry.server.access.accounts import Accounts
from sampan.registry.server.access.rules import ACTIONS
from sampan.registry.server.access.tokens import SERVICE, Access
from sampan.registry.server.errors import Denied, Unauthorized, Unsupported, WrongPassword

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sampan.api.distribution.context import Context, Trace
    from sampan.api.distribution.visitors import Visitor
    from sampan.api.http.messages import Request
    from sampan.api.http.stream import Answer
    from sampan.registry.server.access.foreign import Foreign
    from sampan.registry.server.access.rules import Rules
    from sampan.registry.server.access.tokens import Tokens

__all__ = ["Elsewhere", "Gate", "token"]

_TOKEN_SECONDS = 300
_REFRESH_SECONDS = 30 * 24 * 3600
_SESSION_SECONDS = 12 * 3600
_SESSION_PATH = "/api/"
_COOKIE = "sampan-registry"
_SCOPE = re.compile(r"(repository|registry)(?:\([a-z]+\))?:(.+):([a-z*,]*)")
_SCOPES = 100
_BODY = 64 * 1024


class Elsewhere(NamedTuple):
    """Another token server: whose tokens count, and how clients are sent there (``realm``, empty
    for those that bring one by themselves).
    """

    foreign: Foreign
    realm: str
    service: str


class _Wanted(NamedTuple):
    """What ``/token`` is asked for."""

    user: str
    password: str | None
    refresh: str
    scopes: Sequence[str]
    offline: bool


class Gate:
    """With ``bearer`` clients get tokens here, or ``elsewhere``; without, they send their passwords
    with each request. ``accounts`` may be none. ``home`` is what a repository is called here, by
    what clients call it.
    """

    def __init__(
        self,
        accounts: Accounts | None,
        rules: Rules,
        tokens: Tokens,
        *,
        bearer: bool,
        public_url: str,
        elsewhere: Elsewhere | None = None,
        home: Callable[[str], str] = str,
    ) -> None:
        self.has_accounts = accounts is not None
        self._accounts = accounts if accounts is not None else Accounts({})
        self._rules = rules
        self._tokens = tokens
        self._elsewhere = elsewhere
        self._home = home
        self._bearer = bearer
        self._public_url = public_url
        self._sessions = tokens.of(f"{SERVICE}/page")
        # Passwords are slow by intention: they do not take the threads that blobs need.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="passwords")

    # -- requests ----------------------------------------------------------------------------------

    async def admit(self, request: Request, action: str, trace: Trace) -> Visitor:
        """Who asks is in the trace then. Raises Unauthorized, Denied."""
        name = trace.name
        visitor = await self._visitor(request)
        if visitor is None:
            if not action:
                raise Unauthorized("say who you are")
            visitor = Account("", self._rules)
        trace.user = visitor.user
        if not action or (action == CATALOG and visitor.sees_all()):
            return visitor
        if action != CATALOG and visitor.may(name, action):
            return visitor
        if action == LIST and (seen := self._seen(visitor)) is not None:
            return seen
        if not visitor.user or isinstance(visitor, Bearer):
            what = f"{action} of {name}" if name else "the list of repositories"
            raise Unauthorized(f"{what} needs an account that may", {"name": name})
        what = f"{action} {name}" if name else "see the list of all repositories"
        raise Denied(f"{visitor.user} may not {what}", {"name": name})

    def _seen(self, visitor: Visitor) -> Visitor | None:
        """Who is told of what he may pull; nobody where that is nothing for whoever has no name.

        A token says that its bearer may ask, the rules what he is told.
        """
        if isinstance(visitor, Bearer):
            if not visitor.lists():
                return None
            return Lister(visitor) if visitor.foreign else Account(visitor.user, self._rules)
        return visitor if visitor.user or self._rules.sees_any("") else None

    async def _visitor(self, request: Request) -> Visitor | None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if not scheme and request.path.startswith(_SESSION_PATH):
            user = self.session_user(request)
            return Account(user, self._rules) if user else None
        if scheme.lower() == "bearer":
            return self._bearer_of(value.strip())
        if scheme.lower() != "basic":
            return None
        user, password = _basic(value.strip())
        await self._check(user, password)
        return Account(user, self._rules)

    def _bearer_of(self, token: str) -> Bearer:
        """Raises Unauthorized."""
        if self._elsewhere is not None and not self._tokens.is_form_of(token):
            return Bearer(self._elsewhere.foreign.verify(token), self._home, foreign=True)
        return Bearer(self._tokens.verify(token), self._home, foreign=False)

    async def _check(self, user: str, password: str) -> None:
        if self._accounts.remembers(user, password):
            return
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self._pool, self._accounts.check, user, password):
            known = user if self._accounts.stamp(user) else ""
            raise WrongPassword("wrong name or password", known)

    def challenge(self, request: Request, name: str, action: str) -> str:
        """The field WWW-Authenticate."""
        if "x-requested-with" in request.headers and request.path.startswith(_SESSION_PATH):
            # Our page has a form of its own: no browser's prompt in front of it.
            return f'Session realm="{SERVICE}"'
        if not self._bearer:
            return f'Basic realm="{SERVICE}", charset="UTF-8"'
        if self._elsewhere is not None and self._elsewhere.realm:
            said = f'Bearer realm="{self._elsewhere.realm}",service="{self._elsewhere.service}"'
        else:
            said = f'Bearer realm="{self._base(request)}/token",service="{SERVICE}"'
        if action == CATALOG:
            said += ',scope="registry:catalog:*"'
        elif action == LIST:
            said += f',scope="registry:catalog:{LIST}"'
        elif action:
            wanted = "pull,push" if action == "push" else action
            said += f',scope="repository:{name}:{wanted}"'
        if request.headers.get("authorization", "")[:6].lower() == "bearer":
            said += ',error="insufficient_scope"' if action else ',error="invalid_token"'
        return said

    def _base(self, request: Request) -> str:
        """Where the client reached us, by what it says itself."""
        if self._public_url:
            return self._public_url
        transport = request.connection.transport
        secure = transport is not None and transport.get_extra_info("ssl_object") is not None
        host = request.headers.get("host", "")
        if not is_domain(host):
            raise InvalidArgument("the Host field is not an address")
        return f"{'https' if secure else 'http'}://{host}"

    # -- sessions ----------------------------------------------------------------------------------

    def session_user(self, request: Request) -> str:
        """Whose cookie it is; empty where there is none that is good."""
        for pair in request.headers.get("cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name != _COOKIE:
                continue
            try:
                claims = self._sessions.verify(value)
            except Unauthorized:
                return ""
            if claims.stamp and claims.stamp == self._accounts.stamp(claims.sub):
                return claims.sub
        return ""

    async def begin_session(self, request: Request, user: str, password: str) -> str:
        """The field Set-Cookie. Raises Unauthorized."""
        await self._check(user, password)
        stamp = self._accounts.stamp(user)
        signed = self._sessions.sign(user, _SESSION_SECONDS, stamp=stamp)
        return self._cookie(request, signed, "")

    def end_session(self, request: Request) -> str:
        """The field Set-Cookie."""
        return self._cookie(request, "", "; Max-Age=0")

    def _cookie(self, request: Request, value: str, more: str) -> str:
        secure = "; Secure" if self._base(request).startswith("https:") else ""
        return f"{_COOKIE}={value}; Path={_SESSION_PATH}; HttpOnly; SameSite=Strict{secure}{more}"

    # -- tokens ------------------------------------------------------------------------------------

    async def token(self, request: Request, trace: Trace) -> Answer:
        """``/token``: GET with Basic or without, POST with a form."""
        if not self._bearer:
            raise Unsupported("this registry takes passwords with each request (Basic)")
        wanted = await self._form(request) if request.method == "POST" else _query(request)
        stamp = self._accounts.stamp(wanted.user)
        if wanted.refresh:
            claims = self._tokens.verify(wanted.refresh)
            stamp = self._accounts.stamp(claims.sub)
            if not claims.stamp or claims.stamp != stamp:
                raise Unauthorized("the refresh token is no longer good: log in again")
            wanted = wanted._replace(user=claims.sub)
        elif wanted.password is not None:
            await self._check(wanted.user, wanted.password)
        elif request.method == "POST":
            raise Unauthorized("a password or a refresh token is needed")
        trace.user = wanted.user
        access = tuple(self._granted(wanted.user, wanted.scopes))
        signed = self._tokens.sign(wanted.user, _TOKEN_SECONDS, access)
        said: dict[str, object] = {
            "token": signed,
            "access_token": signed,
            "expires_in": _TOKEN_SECONDS,
        }
        if wanted.refresh:
            said["refresh_token"] = wanted.refresh
        elif wanted.offline and stamp:
            said["refresh_token"] = self._tokens.sign(wanted.user, _REFRESH_SECONDS, stamp=stamp)
        return reply(said, headers={"Cache-Control": "no-store"})

    async def _form(self, request: Request) -> _Wanted:
        body = (await request.body.read(_BODY)).decode("utf-8", "replace")
        try:
            form = urllib.parse.parse_qs(body, max_num_fields=20)
        except ValueError as problem:
            raise InvalidArgument(f"the form: {problem}") from problem

        def one(name: str) -> str:
            return form.get(name, [""])[0]

        kind = one("grant_type")
        if kind not in ("password", "refresh_token"):
            raise InvalidArgument(f'grant_type "{kind}": use password or refresh_token')
        return _Wanted(
            user=one("username") if kind == "password" else "",
            password=one("password") if kind == "password" else None,
            refresh=one("refresh_token") if kind == "refresh_token" else "",
            scopes=one("scope").split(),
            offline=one("access_type") == "offline",
        )

    def _granted(self, user: str, scopes: Sequence[str]) -> list[Access]:
        """As much of what is asked for as the rules allow."""
        granted = []
        for scope in scopes[:_SCOPES]:
            match = _SCOPE.fullmatch(scope)
            if match is None:
                continue
            kind, name = match[1], match[2]
            actions = set(match[3].split(","))
            if kind == "registry":
                if name == "catalog" and actions == {LIST}:
                    if self._rules.sees_any(user):
                        granted.append(Access("registry", "catalog", (LIST,)))
                elif name == "catalog" and self._rules.sees_all(user):
                    granted.append(Access("registry", "catalog", ("*",)))
                continue
            allowed = self._rules.allowed(user, self._home(name))
            given = tuple(a for a in ACTIONS if a in allowed and (a in actions or "*" in actions))
            granted.append(Access("repository", name, given))
        return granted


async def token(context: Context) -> Answer:
    if context.gate is None or not context.gate.has_accounts:
        raise NotFound("this registry has no accounts")
    return await context.gate.token(context.request, context.trace)


def _query(request: Request) -> _Wanted:
    query = request.query
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    user, password = _basic(value.strip()) if scheme.lower() == "basic" else ("", None)
    scopes = [scope for text in query.all("scope") for scope in text.split()]
    return _Wanted(user, password, "", scopes, (query.get("offline_token") or "") == "true")


def _basic(value: str) -> tuple[str, str]:
    """Raises Unauthorized."""
    try:
        text = base64.b64decode(value, validate=True).decode("utf-8")
    except ValueError as error:
        raise Unauthorized("the Authorization field cannot be read") from error
    user, colon, password = text.partition(":")
    if not colon or not user:
        raise Unauthorized("the Authorization field is not a name and a password")
    return user, password
