"""Other firewalls of the machine's that drop what our networks forward: found, named, not touched.

An ``accept`` in a chain of ours ends our chain only; nft(8), "BASE CHAINS": a packet that any chain
at a hook drops is dropped. So a policy of DROP in iptables, or a chain of firewalld's or ufw's that
ends with a refusal, has to be told of our bridges by who keeps it. One that has a rule with the
bridge's name has been told. docs/network.md, "Beside another firewall".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel import nft_reading, xtables
from sampan.kernel.nftables import HOOKS
from sampan.network.firewall import TABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PAGE", "warnings"]

PAGE = 'docs/network.md, "Beside another firewall"'
_FORWARD = HOOKS["forward"]


def warnings(links: Sequence[str]) -> list[str]:
    """A sentence for each chain that drops what comes from or goes to one of these bridges."""
    if not links:
        return []
    found = []
    try:
        for chain in nft_reading.base_chains():
            if chain.hook == _FORWARD and not _is_an_engines(chain):
                found += _of_chain(chain, links)
        unknown = [link for link in links if xtables.forward_policy_drops(_marks(link))]
        if unknown:
            who = "WARNING: iptables-legacy's chain FORWARD"
            found.append(_sentence(who, unknown, _IPTABLES, "FORWARD"))
    except KernelError:
        return found  # no nftables here, or not for us to see: nothing that a start is to fail of
    return found


_IPTABLES = "iptables -I {chain} -i {link} -j ACCEPT; iptables -I {chain} -o {link} -j ACCEPT"
_FIREWALLD = "firewall-cmd --permanent --zone=trusted --add-interface={link}, then --reload"
_UFW = "ufw route allow in on {link}; ufw route allow out on {link}"


def _is_an_engines(chain: nft_reading.BaseChain) -> bool:
    """Engines know one another's bridges (``bridge.GROUP``)."""
    return chain.family == "inet" and chain.table.startswith(TABLES)


_BEGINNINGS = ("sp-", "sampan")


def _marks(link: str) -> tuple[bytes, ...]:
    """What a rule for it has in it, and one for all that begin like it (``sp-+``)."""
    alike = [one for one in _BEGINNINGS if link.startswith(one)]
    return tuple(one.encode() + b"\0" for one in (link, *alike))


def _of_chain(chain: nft_reading.BaseChain, links: Sequence[str]) -> list[str]:
    rules = nft_reading.rules(chain.family, chain.table)
    own = [rule for rule in rules if rule.chain == chain.name]
    if not chain.drops and not (own and own[-1].always_drops):
        return []
    text = b"".join(rule.data for rule in rules)
    unknown = [link for link in links if not any(mark in text for mark in _marks(link))]
    if not unknown:
        return []
    chains = {rule.chain for rule in rules}
    place = chain.name
    if chain.table == "firewalld":
        hint = _FIREWALLD
    elif any(name.startswith(("ufw-", "ufw6-")) for name in chains):
        hint = _UFW
    elif chain.family == "ip" and chain.table == "filter":
        hint = _IPTABLES
        place = "DOCKER-USER" if "DOCKER-USER" in chains else place
    elif chain.family == "ip6" and chain.table == "filter":
        hint = _IPTABLES.replace("iptables", "ip6tables")
    else:
        hint = 'a rule iifname "{link}" accept and one oifname "{link}" accept there'
    who = f"WARNING: the chain {chain.name} of the firewall's table {chain.family} {chain.table}"
    # firewalld's chain accepts what is translated (ct status dnat).
    return [_sentence(who, unknown, hint, place, published=chain.table == "firewalld")]


def _sentence(
    who: str, links: Sequence[str], hint: str, chain: str, *, published: bool = False
) -> str:
    shown = hint.format(chain=chain, link=links[0])
    ports = "" if published else ", and their published ports are reached by this machine only"
    return (
        f"{who} drops what is forwarded: containers on {', '.join(links)} reach nobody outside"
        f"{ports}. Allow it there ({shown}): {PAGE}"
    )
