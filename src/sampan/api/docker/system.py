"""The API's tag *System*: ping, version, and what every path answers to OPTIONS."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from sampan import __version__
from sampan.api.docker import versions
from sampan.api.docker.context import Context, empty, reply
from sampan.api.http.messages import Response
from sampan.errors import NotSupported

if TYPE_CHECKING:
    from sampan.api.http.stream import Answer

__all__ = ["ROUTES"]

_GO_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def ping(context: Context) -> Response:
    """Clients begin with this; ``Builder-Version`` 1 means: the daemon has no BuildKit."""
    return Response(
        200,
        b"" if context.request.method == "HEAD" else b"OK",
        "text/plain; charset=utf-8",
        {
            "Builder-Version": "1",
            "Swarm": "inactive",
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache",
        },
    )


async def version(context: Context) -> Answer:
    system = os.uname()
    machine = _GO_MACHINES.get(system.machine, system.machine)
    common = {
        "ApiVersion": versions.text(versions.MAXIMUM),
        "MinAPIVersion": versions.text(versions.MINIMUM),
        "GitCommit": "",
        "GoVersion": f"Python {platform.python_version()}",
        "Os": "linux",
        "Arch": machine,
        "KernelVersion": system.release,
        "BuildTime": "",
    }
    details = {**common, "Experimental": "false"}
    return reply(
        {
            "Platform": {"Name": "Sampan"},
            "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
            "Version": __version__,
            **common,
            "Experimental": False,
        }
    )


async def options(context: Context) -> Answer:
    """Whoever asks what is possible here gets the headers."""
    return empty(200)


async def experimental(context: Context) -> Answer:
    """dockerd has these in its experimental mode only, and answers so outside of it."""
    raise NotSupported(
        "checkpoints are an experimental feature, and this daemon has no experimental mode"
    )


ROUTES = (
    ("GET", "/_ping", ping),
    ("HEAD", "/_ping", ping),
    ("GET", "/version", version),
    ("OPTIONS", "/{any}", options),
    ("GET", "/containers/{id}/checkpoints", experimental),
    ("POST", "/containers/{id}/checkpoints", experimental),
    ("DELETE", "/containers/{id}/checkpoints/{checkpoint}", experimental),
)
