"""Questions to a registry that move no layers: are these credentials good, what is this name?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument
from sampan.oci import reference as references
from sampan.registry.carrier import messages

if TYPE_CHECKING:
    from sampan.engine.core import Engine
    from sampan.oci.reference import Reference
    from sampan.registry.types import Credentials

__all__ = ["domain_of", "login", "look"]

_HUB = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com")


def domain_of(server: str) -> str:
    """A server's address, as clients write it, as the domain of an image's name.

    ``https://index.docker.io/v1/`` and nothing at all are Docker Hub. Raises InvalidArgument.
    """
    host = server.strip().removeprefix("https://").removeprefix("http://").partition("/")[0]
    if not host or host in _HUB:
        return references.DEFAULT_DOMAIN
    if not references.is_domain(host):
        raise InvalidArgument(f'"{server}" is not a registry\'s address')
    return host


async def login(engine: Engine, server: str, credentials: Credentials) -> str:
    """A token for later, or nothing. Raises Unauthenticated, SampanError."""
    name = references.Reference(domain=domain_of(server), path="")
    where = engine.transfers.where(name, credentials)
    answer = await engine.transfers.ask(messages.Check(number=0, where=where), messages.Checked)
    return answer.identity_token


async def look(
    engine: Engine, name: Reference, credentials: Credentials | None
) -> messages.Resolved:
    """A name's manifest or index as it is. Raises NotFound, SampanError."""
    request = messages.Resolve(
        number=0,
        where=engine.transfers.where(name, credentials),
        reference=name.digest or name.tag or "",
        whole=False,
    )
    return await engine.transfers.ask(request, messages.Resolved)
