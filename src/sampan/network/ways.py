"""The ways out of a container's networks, and what the maker is told to make of its endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.network import bridge, parents
from sampan.network.options import SYSCTLS, link_local, parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sampan.network.types import Endpoint, Network

__all__ = ["Ways"]


class Ways:
    """By the networks that there are, which go on being the caller's."""

    def __init__(self, networks: Mapping[str, Network]) -> None:
        self._networks = networks

    def on_parent(self, endpoint: Endpoint) -> bool:
        """Whether its link is a macvlan or ipvlan one."""
        network = self._networks.get(endpoint.network)
        return network is not None and network.driver in parents.KINDS

    def gateways(self, endpoint: Endpoint) -> list[str]:
        network = self._networks[endpoint.network]
        if network.driver in parents.KINDS:
            return parents.gateways(network, endpoint)
        return bridge.gateways(network, endpoint)

    def every(self, endpoints: Sequence[Endpoint]) -> list[tuple[Endpoint, list[str]]]:
        """By whom the default routes lead, and where to, for each version of IP: the highest
        priority's; among equals theirs that have both versions, and then the first name's."""
        gateways = {endpoint.id: self.gateways(endpoint) for endpoint in endpoints}
        found: list[tuple[Endpoint, list[str]]] = []
        led: set[bool] = set()  # whether it is IPv6's

        def rank(one: Endpoint) -> tuple[int, int, str]:
            versions = {":" in gateway for gateway in gateways[one.id]}
            return -one.wish.priority, -len(versions), one.wish.name

        for endpoint in sorted(endpoints, key=rank):
            own = [one for one in gateways[endpoint.id] if (":" in one) not in led]
            if own:
                found.append((endpoint, own))
                led |= {":" in gateway for gateway in own}
        return found

    def first(self, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        """Whose the first of them is."""
        return next((endpoint for endpoint, _ in self.every(endpoints)), None)

    def plugs(
        self, endpoints: Sequence[Endpoint], up: Mapping[str, tuple[int, int]]
    ) -> list[dict[str, object]]:
        """``runtime.plugs.Plug`` as JSON, of each. ``up``: index and MTU of the networks' links."""
        ways = {endpoint.id: gateways for endpoint, gateways in self.every(endpoints)}
        plugs = []
        for endpoint in endpoints:
            network = self._networks[endpoint.network]
            index, mtu = up[network.id]
            kind = parents if network.driver in parents.KINDS else bridge
            one = kind.plug(network, endpoint, index, mtu)
            plugs.append({**one, **_asked(endpoint), "gateways": ways.get(endpoint.id, [])})
        return plugs


def _asked(endpoint: Endpoint) -> dict[str, object]:
    """What of its link somebody asked for."""
    wish = endpoint.wish
    found = parameters(wish.options.get(SYSCTLS, ""), endpoint.inside)
    return {
        "local": [link_local(one) for one in wish.link_local],
        "parameters": [f"{name}={value}" for name, value in found],
    }
