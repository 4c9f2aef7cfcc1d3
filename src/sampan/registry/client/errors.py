"""What can go wrong between us and a registry, and which of it may go better the next time.

All of these are errors of ``sampan.errors``, so they cross the carrier's border as their base's
name: only in here does it matter whether trying again makes sense.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.errors import NotFound, PermissionDenied, SampanError, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from sampan.registry.client.http import Response

__all__ = [
    "AccessRefused",
    "LoginRefused",
    "Missing",
    "NoConnection",
    "NotHttp",
    "Refused",
    "Transient",
    "Unanswered",
    "UnknownHost",
    "refusal",
]

_BODY_LIMIT = 64 * 1024
_TEXT_LIMIT = 512


class Transient(SampanError):
    """It may work when tried again; ``after`` is what the server asked to wait, in seconds.

    ``status`` is its answer's; 0 where there was none.
    """

    def __init__(self, message: str, after: float | None = None, status: int = 0) -> None:
        super().__init__(message)
        self.after = after
        self.status = status


class NoConnection(Transient, Unavailable):
    """Nobody answers there: refused, unreachable, too late, or not known by name."""


class Unanswered(NoConnection):
    """Nobody has ever answered there: it is not tried again."""


class UnknownHost(NoConnection):
    """There is no such name, or none with an address, says who knows: it is not asked again."""


class NotHttp(SampanError):
    """The other end does not speak TLS, or HTTP."""


class Refused(SampanError):
    """An answer that is an error: its status, the registry's own codes, and its words."""

    def __init__(
        self, message: str, code: int, codes: tuple[str, ...] = (), words: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.codes = codes
        self.words = words


class Missing(Refused, NotFound):
    """404."""


class LoginRefused(Refused, Unauthenticated):
    """401, with whatever credentials there were."""


class AccessRefused(Refused, PermissionDenied):
    """403."""


_KINDS = {401: LoginRefused, 403: AccessRefused, 404: Missing}


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""
    detail: object = None


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


async def refusal(response: Response, doing: str) -> SampanError:
    """The error for an answer nobody wanted; reads the (bounded) body for the registry's words.

    Distribution specification, "Error Codes": ``{"errors": [{"code": …, "message": …}]}``.
    """
    data = await response.read(_BODY_LIMIT, cut=True)
    codes: tuple[str, ...] = ()
    try:
        errors = msgspec.json.decode(data, type=_Errors).errors
        codes = tuple(error.code for error in errors)
        text = ", ".join(_sentence(error) for error in errors)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = data.decode("utf-8", "replace").strip() if _is_text(response) else ""
    text = _printable(text) or _printable(response.head.reason)
    status = response.head.status
    message = f"{doing}: {text or 'no reason given'} (HTTP {status})"
    if status in (408, 429) or status >= 500:
        return Transient(message, _retry_after(response), status)
    return _KINDS.get(status, Refused)(message, status, codes, text)


def _sentence(error: _Error) -> str:
    code = error.code.lower().replace("_", " ")
    return f"{code}: {error.message}" if error.message and code else error.message or code


def _printable(text: str) -> str:
    """A stranger's words, fit for a terminal and a log."""
    shown = "".join(c if c.isprintable() else " " for c in text).strip()
    return shown if len(shown) <= _TEXT_LIMIT else shown[: _TEXT_LIMIT - 1] + "…"


def _is_text(response: Response) -> bool:
    return response.head.fields.get("content-type", "").startswith("text/plain")


def _retry_after(response: Response) -> float | None:
    """Seconds of ``Retry-After`` (RFC 9110, 10.2.3); a date in it is not worth a clock's trust."""
    value = response.head.fields.get("retry-after", "").strip()
    return float(value) if value.isascii() and value.isdecimal() and len(value) < 6 else None
