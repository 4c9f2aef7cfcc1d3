"""A registry's refusal to give an image, in the words clients of Docker know and look for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import NotFound, PermissionDenied, SampanError, Unauthenticated
from sampan.oci.digest import is_digest
from sampan.oci.reference import Reference
from sampan.registry.client.errors import Missing, Refused

if TYPE_CHECKING:
    from sampan.registry.carrier.messages import Where

__all__ = ["denied"]


def denied(error: SampanError, where: Where, reference: str = "") -> SampanError:
    """The error to tell, for one met while asking for a tag or a digest of a repository."""
    name = Reference(domain=where.domain, path=where.path)
    if is_digest(reference):
        full = name.replace(digest=reference)
    else:
        full = name.replace(tag=reference or None)
    words = (error.words if isinstance(error, Refused) else "") or error.message
    if isinstance(error, Missing):
        if "NAME_UNKNOWN" in error.codes:
            return NotFound(f"repository {name.familiar} not found: {words}")
        return NotFound(f"manifest for {full.familiar} not found: {words}")
    if isinstance(error, Unauthenticated | PermissionDenied):
        return NotFound(
            f"pull access denied for {name.familiar}, repository does not exist or may require "
            f"'docker login': {words}"
        )
    return error
