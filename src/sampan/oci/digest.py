"""Content addresses: ``algorithm:hex`` (OCI image specification, descriptor.md, "Digests").

A digest is a plain ``str`` everywhere in this project; the functions here are the only ones that
take one apart. ``sha256`` is what everybody writes, ``sha512`` what the specification also
registers; any other algorithm cannot be verified and is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from typing import Protocol

    class Hash(Protocol):
        """What ``hashlib.new`` returns."""

        def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
        def hexdigest(self) -> str: ...


__all__ = ["chain_id", "chain_ids", "hexadecimal", "is_digest", "new_hash", "of", "parse"]

_LENGTHS = {"sha256": 64, "sha512": 128}
_HEXADECIMAL = frozenset("0123456789abcdef")


def is_digest(text: str) -> bool:
    """Whether ``text`` is a digest this project can verify."""
    algorithm, _, encoded = text.partition(":")
    return len(encoded) == _LENGTHS.get(algorithm) and _HEXADECIMAL.issuperset(encoded)


def parse(text: str) -> tuple[str, str]:
    """Algorithm and lower-case hex of a digest, or ``InvalidArgument``."""
    algorithm, separator, encoded = text.partition(":")
    if not separator:
        raise InvalidArgument(f'"{text}" is not a digest: expected sha256:<64 hex digits>')
    if algorithm not in _LENGTHS:
        raise InvalidArgument(f'digest "{text}": algorithm "{algorithm}" is not supported')
    if not is_digest(text):
        raise InvalidArgument(
            f'digest "{text}": expected {_LENGTHS[algorithm]} lower-case hex digits'
        )
    return algorithm, encoded


def hexadecimal(digest: str) -> str:
    """The hex part of a digest, checked: safe as one component of a path."""
    return parse(digest)[1]


def new_hash(algorithm: str = "sha256") -> Hash:
    """A running hash; ``hashlib`` is imported here, as loading OpenSSL costs milliseconds."""
    import hashlib

    if algorithm not in _LENGTHS:
        raise InvalidArgument(f'digest algorithm "{algorithm}" is not supported')
    return hashlib.new(algorithm)


def of(data: bytes | bytearray | memoryview, like: str = "sha256:") -> str:
    """The digest of some bytes, by sha256 or by the algorithm of the digest ``like``."""
    algorithm = like.partition(":")[0]
    running = new_hash(algorithm)
    running.update(data)
    return f"{algorithm}:{running.hexdigest()}"


def chain_ids(diff_ids: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The chain ID of each layer, lowest first (OCI image specification, config.md, "ChainID").

    ``chain(0) = diff(0)`` and ``chain(n) = sha256(chain(n-1) + " " + diff(n))``.
    """
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return tuple(chain)


def chain_id(parent: str | None, diff_id: str) -> str:
    """The chain ID of a layer on top of another chain, or of none."""
    parse(diff_id)
    return diff_id if parent is None else of(f"{parent} {diff_id}".encode())
