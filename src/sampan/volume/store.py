"""Named volumes of the local driver: ``<data root>/volumes/<name>/_data``.

A volume exists from the commit of its row; its directory is made before that and removed, by a
rename into the trash, after the row is gone. A directory without a row is left over from a create
or a remove that was interrupted, and goes when the store is opened; a row without a directory
(somebody deleted it) gets a new one when the volume is next asked for.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import InvalidArgument, NotFound, NotSupported
from sampan.storage.drivers.removal import Trash

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.storage.database import Database

__all__ = ["DRIVER", "Volume", "VolumeStore"]

DRIVER = "local"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_is_name = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}").fullmatch
_labels = msgspec.json.Decoder(dict[str, str])
_COLUMNS = "name, driver, created, anonymous, labels"


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """One volume. ``path`` is what a container mounts; ``created`` is seconds since 1970."""

    name: str
    path: str
    created: float
    driver: str = DRIVER
    anonymous: bool = False
    labels: dict[str, str] = {}


class VolumeStore:
    """Volumes of one data root. Every method may be called from any thread."""

    def __init__(self, data_root: str, database: Database) -> None:
        self._database = database
        self.root = f"{os.path.abspath(data_root)}/volumes"
        os.makedirs(self.root, 0o701, exist_ok=True)
        self._fd = os.open(self.root, _DIRECTORY)
        self._trash = Trash(self._fd, ".trash")
        known = {row[0] for row in database.rows("SELECT name FROM volumes")}
        for name in os.listdir(self._fd):
            if name != ".trash" and name not in known:
                self._trash.put(self._fd, name)

    def close(self) -> None:
        self._trash.close()
        os.close(self._fd)

    def create(
        self,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        driver: str = DRIVER,
        options: Mapping[str, str] | None = None,
    ) -> Volume:
        """Make a volume, or return the one of that name as it is; without a name, an anonymous one.

        InvalidArgument (the name), NotSupported (a driver but ``local``, or options for it).
        """
        if driver not in ("", DRIVER):
            raise NotSupported(f'volume driver "{driver}" is not known: the one there is is local')
        if options:
            raise NotSupported(f'volume option "{min(options)}": the local driver takes no options')
        return self.ensure(name or os.urandom(32).hex(), anonymous=not name, labels=labels)[0]

    def ensure(
        self, name: str, *, anonymous: bool = False, labels: Mapping[str, str] | None = None
    ) -> tuple[Volume, bool]:
        """The volume of that name with its directory, made if need be; whether it was made now."""
        if _is_name(name) is None:
            raise InvalidArgument(
                f'volume name "{name}": at least two characters of a-z, A-Z, 0-9, "_", "." and '
                '"-", of which the first is a letter or a digit'
            )
        self._make_directory(name)
        encoded = msgspec.json.encode(dict(labels or {}))
        made = self._database.execute(
            f"INSERT INTO volumes ({_COLUMNS}, options) VALUES (?, ?, ?, ?, ?, '{{}}')"
            " ON CONFLICT DO NOTHING",
            (name, DRIVER, time.time(), anonymous, encoded),
        )
        return self.get(name), bool(made)

    def get(self, name: str) -> Volume:
        """NotFound, in Docker's words."""
        found = self._find(name)
        if found is None:
            raise NotFound(f"get {name}: no such volume")
        return found

    def path(self, name: str) -> str:
        """The directory to mount, made again if it is gone. NotFound."""
        volume = self.get(name)
        self._make_directory(name)
        return volume.path

    def list(self) -> list[Volume]:
        """Every volume, by name."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM volumes ORDER BY name")
        return [self._volume(row) for row in rows]

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume and what is in it. Who calls knows that no container uses it.

        NotFound, unless ``force``.
        """
        if not self._database.execute("DELETE FROM volumes WHERE name = ?", (name,)):
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        self._trash.put(self._fd, name)

    def collect(self) -> None:
        """Delete now what was removed."""
        self._trash.empty()

    def _find(self, name: str) -> Volume | None:
        row = self._database.row(f"SELECT {_COLUMNS} FROM volumes WHERE name = ?", (name,))
        return None if row is None else self._volume(row)

    def _volume(self, row: tuple[str, str, float, int, bytes]) -> Volume:
        name, driver, created, anonymous, labels = row
        return Volume(
            name=name,
            path=f"{self.root}/{name}/_data",
            created=created,
            driver=driver,
            anonymous=bool(anonymous),
            labels=_labels.decode(labels),
        )

    def _make_directory(self, name: str) -> None:
        # Passable for others, as a container's user is not root; its name alone is no secret.
        os.makedirs(f"{self.root}/{name}/_data", 0o755, exist_ok=True)
