"""What somebody asks of one endpoint beyond addresses and names: its link's name, its kernel
parameters, its link-local addresses.

After the driver options of the Docker Engine API v1.51, RFC 3927 and RFC 4291, 2.5.6.
"""

from __future__ import annotations

import ipaddress

from sampan.errors import InvalidArgument

__all__ = ["INTERFACE", "OPTIONS", "SYSCTLS", "link_local", "parameters"]

INTERFACE = "com.docker.network.endpoint.ifname"
"""The link's name inside."""
SYSCTLS = "com.docker.network.endpoint.sysctls"
"""Its kernel parameters: ``net.ipv4.conf.IFNAME.log_martians=1``, several with commas."""
OPTIONS = (INTERFACE, SYSCTLS)

_KINDS = ("ipv4", "ipv6", "mpls")


def parameters(text: str, link: str = "IFNAME") -> list[tuple[str, str]]:
    """(``net/ipv4/conf/LINK/NAME``, value) of each. Raises InvalidArgument."""
    found = []
    for item in text.split(",") if text else ():
        name, equals, value = item.partition("=")
        # In the fourth place: the client writes options' values in small letters at times.
        parts = name.strip().split(".", 4)
        if (
            len(parts) != 5
            or parts[0] != "net"
            or parts[1] not in _KINDS
            or parts[3] not in ("IFNAME", "ifname")
            or any(not part.replace("_", "").replace("-", "").isalnum() for part in parts)
            or not equals
            or not value.isprintable()
        ):
            raise InvalidArgument(
                f"{SYSCTLS}: {item!r} is not a parameter of this interface: write "
                f"net.X.Y.IFNAME.Z=VALUE, where X is one of {', '.join(_KINDS)}"
            )
        found.append((f"net/{parts[1]}/{parts[2]}/{link}/{parts[4]}", value))
    return found


def link_local(text: str) -> str:
    """As address/prefix. Raises InvalidArgument."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid link-local IP address: {text}") from None
    if not address.is_link_local:
        raise InvalidArgument(
            f"invalid link-local IP address: {text}: it is not in 169.254.0.0/16 or fe80::/10"
        )
    return f"{address}/{16 if address.version == 4 else 64}"
