"""``port``: where a container's ports are reached from outside."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sampan.cli.commands.common import path, read
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["port"]

Binding = dict[str, str]


def port(client: Client, argv: list[str]) -> int:
    """List a container's published ports, or where one of them is reached."""
    flags = read(
        "port",
        "CONTAINER [PRIVATE_PORT[/PROTO]]",
        "Show where a container's ports are reached from outside",
        [],
        argv,
        least=1,
        most=2,
    )
    if flags is None:
        return 0
    name = flags.arguments[0]
    details = client.call("GET", path("/containers/{}/json", name))
    published: dict[str, list[Binding]] = (details.get("NetworkSettings") or {}).get("Ports") or {}
    if len(flags.arguments) == 1:
        lines = [
            (_order(inner), f"{inner} -> {_place(binding)}")
            for inner, bindings in published.items()
            for binding in bindings or []
        ]
        for _, line in sorted(lines):
            print(line)
        return 0
    asked = flags.arguments[1]
    number, _, protocol = asked.partition("/")
    if not number.isdigit() or not 0 < int(number) < 65536:
        raise InvalidArgument(f"port: {asked}: expected a port from 1 to 65535")
    bindings = published.get(f"{int(number)}/{protocol or 'tcp'}")
    if not bindings:
        print(f"Error: No public port '{asked}' published for {name}", file=sys.stderr)
        return 1
    for binding in bindings:
        print(_place(binding))
    return 0


def _order(inner: str) -> tuple[int, str]:
    number, _, protocol = inner.partition("/")
    return int(number), protocol


def _place(binding: Binding) -> str:
    address = binding.get("HostIp") or ""
    return f"{f'[{address}]' if ':' in address else address}:{binding.get('HostPort') or ''}"
