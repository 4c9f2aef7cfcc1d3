"""What the resolver knows: endpoints with their names, and clients with the networks they are on.

Told by the daemon, to which it is a function of the rows; no I/O, and nothing here expires.
A name of a network is only that of who is on it; of several endpoints with one name each query
begins with the next (round robin).
"""

from __future__ import annotations

import socket

from sampan.errors import InvalidArgument
from sampan.network.resolver.messages import (
    AAAA,
    IN,
    NOERROR,
    NXDOMAIN,
    PTR,
    A,
    Query,
    encode_name,
    reversed_address,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = ["Client", "Endpoint", "Names"]


class Endpoint:
    """A container on a network. ``title`` is the answer to who has its addresses."""

    __slots__ = ("container", "four", "id", "names", "network", "six", "title")

    def __init__(self, message: Mapping[str, Any]) -> None:
        """Raises InvalidArgument."""
        try:
            self.id: str = message["id"]
            self.container: str = message["container"]
            self.network: str = message["network"]
            self.names = tuple({str(name).lower(): None for name in message["names"]})
            self.title = encode_name(message["title"])
            four, six = [], []
            for address in message["addresses"]:
                if ":" in address:
                    six.append(socket.inet_pton(socket.AF_INET6, address))
                else:
                    four.append(socket.inet_pton(socket.AF_INET, address))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InvalidArgument(f"endpoint {message!r}: {error}") from error
        self.four, self.six = four, six

    def data(self, qtype: int) -> list[bytes]:
        if qtype == A:
            return self.four
        return self.six if qtype == AAAA else []


class Client:
    """A container that asks. ``linked``: names of its own for names of a network. ``servers``:
    whom to ask what we do not know; None for the machine's, empty for nobody (an internal network).
    ``bare``: whether names without a dot are never asked of those (ndots was given)."""

    __slots__ = ("bare", "id", "linked", "networks", "servers")

    def __init__(self, message: Mapping[str, Any]) -> None:
        """Raises InvalidArgument."""
        try:
            self.id: str = message["id"]
            self.networks: tuple[str, ...] = tuple(message["networks"])
            self.linked: dict[str, dict[str, str]] = {
                network: {alias.lower(): name.lower() for alias, name in known.items()}
                for network, known in message.get("linked", {}).items()
            }
            servers = message.get("servers")
            self.servers: tuple[str, ...] | None = None if servers is None else tuple(servers)
            self.bare = bool(message.get("bare", False))
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidArgument(f"client {message!r}: {error}") from error


class _Network:
    """The endpoints of one network, by name and by address."""

    __slots__ = ("addresses", "containers", "names")

    def __init__(self) -> None:
        self.names: dict[str, dict[str, Endpoint]] = {}
        self.addresses: dict[bytes, Endpoint] = {}
        self.containers: dict[str, Endpoint] = {}


class Names:
    """All of it."""

    def __init__(self) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self._networks: dict[str, _Network] = {}
        self._turn = 0

    def replace(self, endpoints: Iterable[Endpoint]) -> None:
        """These are all there are."""
        self.endpoints.clear()
        self._networks.clear()
        for endpoint in endpoints:
            self.put(endpoint)

    def put(self, endpoint: Endpoint) -> None:
        """A new endpoint, or what has become of one."""
        self.remove(endpoint.id)
        network = self._networks.get(endpoint.network)
        if network is not None and endpoint.container in network.containers:
            # That of its last run, which is not forgotten yet.
            self.remove(network.containers[endpoint.container].id)
        self.endpoints[endpoint.id] = endpoint
        network = self._networks.setdefault(endpoint.network, _Network())
        network.containers[endpoint.container] = endpoint
        for name in endpoint.names:
            network.names.setdefault(name, {})[endpoint.id] = endpoint
        for address in (*endpoint.four, *endpoint.six):
            network.addresses[address] = endpoint

    def remove(self, endpoint_id: str) -> None:
        """Nothing where there is none."""
        endpoint = self.endpoints.pop(endpoint_id, None)
        if endpoint is None:
            return
        network = self._networks[endpoint.network]
        if network.containers.get(endpoint.container) is endpoint:
            del network.containers[endpoint.container]
        for name in endpoint.names:
            found = network.names[name]
            del found[endpoint_id]
            if not found:
                del network.names[name]
        for address in (*endpoint.four, *endpoint.six):
            if network.addresses.get(address) is endpoint:
                del network.addresses[address]
        if not network.names and not network.containers:
            del self._networks[endpoint.network]

    def answer(self, client: Client, query: Query) -> tuple[int, list[bytes]] | None:
        """The code and data of a reply; None for what others may know.

        A name that is known is never asked of others: one without an IPv6 address, or without
        mail, has none (no data), whatever they say.
        """
        if query.qclass != IN:
            return None
        found = self._titles(client, query) if query.qtype == PTR else self._find(client, query)
        if found is not None:
            return NOERROR, found
        if client.servers == ():
            return NXDOMAIN, []
        if client.bare and query.qtype in (A, AAAA) and "." not in query.name:
            return NXDOMAIN, []
        return None

    def _titles(self, client: Client, query: Query) -> list[bytes] | None:
        address = reversed_address(query.name)
        if address is None:
            return self._find(client, query)
        for key in client.networks:
            network = self._networks.get(key)
            if network is not None and address in network.addresses:
                return [network.addresses[address].title]
        return None

    def _find(self, client: Client, query: Query) -> list[bytes] | None:
        """Of the first of its networks where the name has such an address; empty where it has
        none on any."""
        asked = [
            (key, names[query.name])
            for key, names in client.linked.items()
            if query.name in names and key in client.networks
        ]
        asked += [(key, query.name) for key in client.networks]
        known = False
        for key, name in asked:
            network = self._networks.get(key)
            named = network.names.get(name) if network is not None else None
            if named is not None:
                known = True
                data = [one for each in named.values() for one in each.data(query.qtype)]
                if data:
                    self._turn += 1
                    first = self._turn % len(data)
                    return data[first:] + data[:first]
        return [] if known else None
