"""The parameter ``platform``: an OCI platform in JSON, of the operations that choose one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.errors import InvalidArgument
from sampan.oci.platform import Platform

if TYPE_CHECKING:
    from sampan.api.docker.context import Context

__all__ = ["platform_of"]


def platform_of(context: Context) -> Platform | None:
    """None where it is not given. Raises InvalidArgument."""
    text = context.text("platform")
    if not text:
        return None
    try:
        return Platform.from_json(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError, InvalidArgument) as error:
        raise InvalidArgument(f"failed to parse platform {text!r}: {error}") from error
