"""Names for containers that were given none, and what a name may be.

The grammar is Docker's (``[a-zA-Z0-9][a-zA-Z0-9_.-]+``), so is the form adjective_noun; the words
are ours: of water, and of people who measured and sailed it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

__all__ = ["check_name", "random_name"]

_GRAMMAR = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")

_ADJECTIVES = """
    afloat amber ample ancient autumn azure balmy bold breezy bright brisk calm candid cedar clear
    coastal cobalt copper coral crisp dapper dawn deep dewy drifting eastern easy ebbing even
    faithful fleet fluent fresh gentle gilded glassy golden graceful handy hardy hazel hearty
    humble indigo island ivory jade jolly keen kindly lacquered light limpid lively lofty lunar
    mellow merry misty moonlit moored nimble noble northern opal open patient pearly placid plucky
    polished prompt proud quick quiet radiant reedy ripe rippled river roving ruddy rustic saffron
    sandy scenic serene silken silver sleek slender snug solar southern spruce stalwart steady
    still stout summer sunlit supple swift tidal tidy tranquil trim trusty upland upbeat verdant
    vivid warm western wide willow windward winter wise
""".split()

_SURNAMES = """
    amundsen aristarchus banks barents baret beaufort behaim bering bowditch brendan cabot cabral
    cousteau davis drake earle ekman elcano erikson eratosthenes fitzroy franklin frobisher gama
    halley harrison heyerdahl hipparchus hudson humboldt ibnmajid jussieu kaempfer kelvin kotzebue
    kupe laperouse lomonosov magellan maskelyne maury mercator moitessier nansen nordenskiold
    ortelius peary piri plimsoll polo ptolemy pytheas ricci ross sacagawea scoresby shackleton
    slocum solander stevin svendsen tasman tharp torres tupaia vancouver vespucci waldseemuller
    wallis wegener wilkes xuxiake yijing zhenghe
""".split()


def check_name(name: str) -> str:
    """The name without a leading slash. Raises InvalidArgument."""
    if not _GRAMMAR.match(name):
        raise InvalidArgument(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )
    return name.lstrip("/")


def _number() -> int:
    """Chance from the kernel: the module ``random`` would load a generator nobody else needs."""
    return int.from_bytes(os.urandom(8), "big")


def _choice(words: Sequence[str]) -> str:
    return words[_number() % len(words)]


def random_name(taken: Container[str]) -> str:
    """A name not in ``taken``; a digit is added when luck runs out."""
    for attempt in range(10_000):
        name = f"{_choice(_ADJECTIVES)}_{_choice(_SURNAMES)}"
        if attempt >= 6:
            name += str(_number() % 10 ** (attempt // 6))
        if name not in taken:
            return name
    raise InvalidArgument("no free container name was found: give one with --name")
