"""The parameter ``platform``: an OCI platform in JSON, of the operations that choose one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.errors import InvalidArgument
from sampan.oci.platform import Platform

if TYPE_CHECKING:
    from sampan.api.docker.context import Context

__all__ = ["platform_of", "platforms_of"]


def platform_of(context: Context) -> Platform | None:
    """None where it is not given. Raises InvalidArgument."""
    found = platforms_of(context, "platform")
    if len(found) > 1:
        raise InvalidArgument("platform: an image here has one platform: name one")
    return found[0] if found else None


def platforms_of(context: Context, name: str) -> list[Platform]:
    """Each value of a parameter that may be given more than once. Raises InvalidArgument."""
    return [_platform(name, text) for text in context.request.query.all(name) if text]


def _platform(name: str, text: str) -> Platform:
    try:
        return Platform.from_json(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError, InvalidArgument) as error:
        raise InvalidArgument(f"{name}: {text!r} is not a platform in JSON: {error}") from error
