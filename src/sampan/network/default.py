"""The default network as the administrator wants it, with the names of dockerd's flags.

What is not said is chosen: a subnet, a name for the bridge. With ``differences`` the row that is
there is of other decisions, and is to be made anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument
from sampan.network.types import Network

if TYPE_CHECKING:
    from sampan.network.types import Options, Subnet

__all__ = ["ROUTER", "differences", "subnets_of", "wanted"]

ROUTER = {4: "DefaultGatewayIPv4", 6: "DefaultGatewayIPv6"}
"""Docker's names of an auxiliary address that default routes lead to (``Subnet.router``)."""


def subnets_of(options: Options) -> tuple[Subnet, ...]:
    """Those that somebody decided. Raises InvalidArgument, Conflict."""
    found = []
    for version, bip, fixed, router in (
        (4, options.bip, options.fixed, options.router),
        (6, options.bip6, options.fixed6, options.router6),
    ):
        suffix = "-v6" if version == 6 else ""
        if version == 6 and not options.ipv6 and (bip or fixed or router):
            raise InvalidArgument("bip6, fixed-cidr-v6 and default-gateway-v6 need ipv6")
        if not bip and not fixed:
            if router:
                raise InvalidArgument(
                    f"default-gateway{suffix} {router}: say in which subnet it is, with "
                    f"{'bip6' if suffix else 'bip'} or fixed-cidr{suffix}"
                )
            continue
        from sampan.network.addresses import around
        from sampan.network.creation import IpamConfig, subnet_of

        asked = IpamConfig(
            subnet=str(around(bip, "bip")) if bip else fixed,
            gateway=bip.partition("/")[0],
            ip_range=fixed if bip else "",
            auxiliary_addresses={ROUTER[version]: router} if router else {},
        )
        found.append(subnet_of(asked))
    return tuple(found)


def wanted(options: Options, network_id: str, created: int) -> Network:
    """Without what is to be chosen. Raises InvalidArgument, Conflict."""
    return Network(
        id=network_id,
        name="bridge",
        created=created,
        link=options.bridge,
        ipv6=options.ipv6,
        subnets=subnets_of(options),
        mtu=options.mtu,
        icc=options.icc,
        masquerade=options.masquerade,
        bind=options.bind,
        options={
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.enable_icc": str(options.icc).lower(),
            "com.docker.network.bridge.enable_ip_masquerade": str(options.masquerade).lower(),
            "com.docker.network.bridge.host_binding_ipv4": options.bind or "0.0.0.0",
        },
    )


def differences(network: Network, new: Network) -> list[str]:
    """The flags in which the row ``network`` is not what ``new`` (``wanted``) says."""
    decided = tuple(subnet for subnet in network.subnets if not subnet.automatic)
    found = {
        "mtu": network.mtu != new.mtu,
        "icc": network.icc != new.icc,
        "ip-masq": network.masquerade != new.masquerade,
        "ipv6": network.ipv6 != new.ipv6,
        "ip": network.bind != new.bind,
        "bip, fixed-cidr, default-gateway": decided != new.subnets or not network.subnets,
        "bridge": new.link not in ("", network.link),
    }
    return [name for name, differs in found.items() if differs]
