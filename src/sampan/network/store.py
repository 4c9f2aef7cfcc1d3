"""Networks, endpoints and leases in the database.

An address is one endpoint's because the pair (network, address) is a primary key: whoever dies
between two steps, nobody else gets it before its endpoint's row is gone, and with that row its
leases go. What is not committed was not given.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, TypeVar

import msgspec

from sampan.errors import AlreadyExists, Conflict, Corrupt
from sampan.network.types import Endpoint, Network

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sampan.storage.database import Database

__all__ = ["NetworkStore"]

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_network = msgspec.json.Decoder(Network)
_endpoint = msgspec.json.Decoder(Endpoint)


class NetworkStore:
    """Rows of ``networks``, ``endpoints`` and ``leases``; every method commits before it returns,
    or with the transaction it is called in."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def networks(self) -> list[Network]:
        """Every network, oldest first. Raises Corrupt."""
        rows = self._database.rows("SELECT id, document FROM networks ORDER BY created")
        return [_read(_network, "network", key, document) for key, document in rows]

    def endpoints(self) -> list[Endpoint]:
        """Every endpoint. Raises Corrupt."""
        rows = self._database.rows("SELECT id, document FROM endpoints")
        return [_read(_endpoint, "endpoint", key, document) for key, document in rows]

    def add_network(self, network: Network) -> None:
        """Raises AlreadyExists."""
        try:
            self._database.execute(
                "INSERT INTO networks (id, name, created, document) VALUES (?, ?, ?, ?)",
                (network.id, network.name, network.created, _encode(network)),
            )
        except sqlite3.IntegrityError as error:
            raise AlreadyExists(f"network with name {network.name} already exists") from error

    def put_network(self, network: Network) -> None:
        """What changed of it; its name does not."""
        self._database.execute(
            "UPDATE networks SET document = ? WHERE id = ?", (_encode(network), network.id)
        )

    def remove_network(self, network_id: str) -> None:
        """Raises Conflict while there are endpoints."""
        query = "DELETE FROM networks WHERE id = ?"
        try:
            self._database.release(lambda: self._database.execute(query, (network_id,)))
        except sqlite3.IntegrityError as error:
            raise Conflict(f"network {network_id} has active endpoints") from error

    def add_endpoint(self, endpoint: Endpoint, instead_of: str = "") -> None:
        """The endpoint and its leases; those of the endpoint ``instead_of`` become its own. Raises
        Conflict when somebody has an address."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO endpoints (id, network_id, container_id, document) "
                "VALUES (?, ?, ?, ?)",
                (endpoint.id, endpoint.network, endpoint.container, _encode(endpoint)),
            )
            if instead_of:
                connection.execute("DELETE FROM leases WHERE endpoint_id = ?", (instead_of,))
            for address in (endpoint.address4, endpoint.address6):
                if address:
                    self._lease(connection, endpoint, address)

    def _lease(self, connection: sqlite3.Connection, endpoint: Endpoint, address: str) -> None:
        try:
            connection.execute(
                "INSERT INTO leases (network_id, address, endpoint_id) VALUES (?, ?, ?)",
                (endpoint.network, address, endpoint.id),
            )
        except sqlite3.IntegrityError as error:
            raise Conflict(f"Address already in use: {address}") from error

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """What changed of it; its addresses do not."""
        self._database.execute(
            "UPDATE endpoints SET document = ? WHERE id = ?", (_encode(endpoint), endpoint.id)
        )

    def remove_endpoints(self, ids: Iterable[str]) -> None:
        """With their leases."""
        going = list(ids)

        def work() -> None:
            for key in going:
                self._database.execute("DELETE FROM endpoints WHERE id = ?", (key,))

        self._database.release(work)

    def holders(self) -> set[str]:
        """The endpoints that have an address."""
        return {row[0] for row in self._database.rows("SELECT endpoint_id FROM leases")}

    def leases(self, network_id: str) -> Sequence[str]:
        rows = self._database.rows("SELECT address FROM leases WHERE network_id = ?", (network_id,))
        return [row[0] for row in rows]


def _read(decoder: msgspec.json.Decoder[T], what: str, key: str, document: bytes) -> T:
    try:
        return decoder.decode(document)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{what} {key}: its row cannot be read: {error}") from error
