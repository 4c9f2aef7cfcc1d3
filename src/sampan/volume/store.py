"""Named volumes of the local driver: ``<data root>/volumes/<name>/_data``.

    volumes/<name>/_data      what containers mount; a mount point where the volume has options
    volumes/<name>/.filling   being copied from an image (``filling``)
    volumes/<name>/.filled    copied whole, being moved into ``_data``
    volumes/.trash            renamed away, deleted later

A volume exists from the commit of its row; its directory is made before that and removed, by a
rename into the trash, after the row is gone. A directory without a row is left over from a create
or a remove that was interrupted, and goes when the store is opened, as does what was being copied;
what was copied whole is moved on. A row without a directory (somebody deleted it) gets a new one
when the volume is next asked for.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import AlreadyExists, Conflict, InvalidArgument, NotFound
from sampan.storage.archive.tree import files_size
from sampan.storage.drivers.removal import Trash
from sampan.volume import filling, local

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sampan.storage.database import Database

__all__ = ["ANONYMOUS", "DRIVER", "Volume", "VolumeStore", "check_name"]

DRIVER = "local"
ANONYMOUS = "com.docker.volume.anonymous"
"""The label by which clients know a volume that was not named."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_is_name = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*").fullmatch
_MAX_NAME = 255
_strings = msgspec.json.Decoder(dict[str, str])
_COLUMNS = "name, driver, created, anonymous, labels, options"


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """One volume. ``path`` is what a container mounts; ``created`` is seconds since 1970;
    ``options`` are the local driver's (``local``)."""

    name: str
    path: str
    created: float
    driver: str = DRIVER
    anonymous: bool = False
    labels: dict[str, str] = {}
    options: dict[str, str] = {}


def check_name(name: str) -> None:
    """InvalidArgument, in Docker's words."""
    if len(name) < 2:
        raise InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric "
            "characters"
        )
    if _is_name(name) is None:
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, '
            "use absolute path"
        )
    if len(name) > _MAX_NAME:
        raise InvalidArgument(f"create {name}: volume name is longer than {_MAX_NAME} characters")


class VolumeStore:
    """Volumes of one data root. Every method may be called from any thread; who changes one volume
    does so one at a time."""

    def __init__(self, data_root: str, database: Database) -> None:
        self._database = database
        self.root = f"{os.path.abspath(data_root)}/volumes"
        os.makedirs(self.root, 0o701, exist_ok=True)
        self._fd = os.open(self.root, _DIRECTORY)
        self._trash = Trash(self._fd, ".trash")
        known = {row[0] for row in database.rows("SELECT name FROM volumes")}
        for name in os.listdir(self._fd):
            if name == ".trash":
                continue
            if name not in known:
                self._discard(name)
            else:
                filling.recover(f"{self.root}/{name}", self._trash)

    def close(self) -> None:
        self._trash.close()
        os.close(self._fd)

    # -- making and removing -------------------------------------------------------------------

    def prepare(
        self,
        name: str | None = None,
        *,
        driver: str = DRIVER,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> tuple[Volume, bool]:
        """The volume of that name, or a new one with its directory and yet without its row
        (``add``, ``abandon``); whether it is new. Without a name, an anonymous one.

        InvalidArgument (name, options), NotFound (driver), Conflict: one of that name is there,
        with other options than those asked for.
        """
        if driver not in ("", DRIVER):
            raise NotFound(
                f'create {name or ""}: error looking up volume plugin {driver}: plugin "{driver}" '
                "not found"
            )
        if name:
            check_name(name)
        given = dict(options or {})
        try:
            local.read_options(given)
        except InvalidArgument as error:
            raise InvalidArgument(f"create {name or ''}: {error.message}") from error
        found = self._find(name) if name else None
        if found is not None:
            if given and given != found.options:
                raise Conflict(
                    f"create {name}: a volume of that name exists with other options: "
                    f"{_shown(found.options)}; remove it, or choose another name"
                )
            self._make_directory(found.name)
            return found, False
        own = name or os.urandom(32).hex()
        volume = Volume(
            name=own,
            path=f"{self.root}/{own}/_data",
            created=time.time(),
            anonymous=not name,
            labels={**(labels or {}), **({} if name else {ANONYMOUS: ""})},
            options=given,
        )
        self._discard(own)
        self._make_directory(own)
        return volume, True

    def add(self, *volumes: Volume) -> None:
        """Commit rows for what ``prepare`` made, in the transaction of the caller if there is one.
        AlreadyExists."""
        with self._database.transaction() as connection:
            for volume in volumes:
                added = connection.execute(
                    f"INSERT INTO volumes ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
                    " ON CONFLICT DO NOTHING",
                    (
                        volume.name,
                        volume.driver,
                        volume.created,
                        volume.anonymous,
                        msgspec.json.encode(volume.labels),
                        msgspec.json.encode(volume.options),
                    ),
                )
                if not added.rowcount:
                    raise AlreadyExists(f"create {volume.name}: a volume of that name exists")

    def abandon(self, volume: Volume) -> None:
        """Give up what ``prepare`` made."""
        self._discard(volume.name)

    def create(
        self,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        driver: str = DRIVER,
        options: Mapping[str, str] | None = None,
    ) -> tuple[Volume, bool]:
        """``prepare`` and ``add``."""
        volume, new = self.prepare(name, driver=driver, options=options, labels=labels)
        if new:
            self.add(volume)
        return volume, new

    def drop_rows(self, names: Iterable[str]) -> None:
        """The rows of volumes that nobody uses, in the caller's transaction; ``discard`` follows
        it. Died in between, their directories have no rows, and are swept."""
        for name in names:
            self._database.execute("DELETE FROM volumes WHERE name = ?", (name,))

    def discard(self, name: str) -> None:
        """The files of a volume whose row is gone."""
        self._discard(name)

    def remove(self, name: str) -> None:
        """Remove a volume and what is in it. Who calls knows that nobody uses it. NotFound."""
        query = "DELETE FROM volumes WHERE name = ?"
        if not self._database.release(lambda: self._database.execute(query, (name,))):
            raise NotFound(f"get {name}: no such volume")
        self._discard(name)

    # -- looking ---------------------------------------------------------------------------------

    def get(self, name: str) -> Volume:
        """NotFound, in Docker's words."""
        found = self._find(name)
        if found is None:
            raise NotFound(f"get {name}: no such volume")
        return found

    def list(self) -> list[Volume]:
        """Every volume, by name."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM volumes ORDER BY name")
        return [self._volume(row) for row in rows]

    def size(self, volume: Volume) -> int:
        """Bytes of the files in it; 0 when it is gone. What is mounted there is not counted."""
        try:
            fd = os.open(volume.path, _DIRECTORY)
        except FileNotFoundError:
            return 0
        try:
            return files_size(fd)
        finally:
            os.close(fd)

    # -- using -----------------------------------------------------------------------------------

    def open(self, volume: Volume) -> str:
        """Have what a container mounts: the directory, made again if it is gone, with what the
        options mount on it; its path. InvalidArgument: it cannot be mounted."""
        self._make_directory(volume.name)
        source = local.read_options(volume.options)
        if source is not None and not self._is_mounted(volume.name):
            try:
                source.mount(volume.path)
            except OSError as error:
                raise InvalidArgument(
                    f"error while mounting volume '{volume.path}': failed to mount local volume: "
                    f"mount {source.device}:{volume.path}: {(error.strerror or '').lower()}"
                ) from error
        return volume.path

    def shut(self, name: str) -> None:
        """Nobody uses the volume: what its options mounted goes. What somebody else has mounted on
        a plain one, a disk of its own for it, stays."""
        volume = self._find(name)
        if volume is not None and volume.options:
            self._unmount(name)

    def _unmount(self, name: str) -> None:
        try:
            while self._is_mounted(name):
                local.unmount(f"{self.root}/{name}/_data")
        except FileNotFoundError:
            return

    def fill(self, volume: Volume, source: int) -> None:
        """Copy what is in the directory ``source`` into the volume, if that is empty."""
        if volume.options:
            filling.fill_in_place(volume.path, source)
        else:
            filling.fill(f"{self.root}/{volume.name}", source, self._trash)

    def collect(self) -> None:
        """Delete now what was removed."""
        self._trash.empty()

    def _find(self, name: str) -> Volume | None:
        row = self._database.row(f"SELECT {_COLUMNS} FROM volumes WHERE name = ?", (name,))
        return None if row is None else self._volume(row)

    def _volume(self, row: tuple[str, str, float, int, bytes, bytes]) -> Volume:
        name, driver, created, anonymous, labels, options = row
        return Volume(
            name=name,
            path=f"{self.root}/{name}/_data",
            created=created,
            driver=driver,
            anonymous=bool(anonymous),
            labels=_strings.decode(labels),
            options=_strings.decode(options),
        )

    def _make_directory(self, name: str) -> None:
        # Passable for others, as a container's user is not root; its name alone is no secret.
        os.makedirs(f"{self.root}/{name}/_data", 0o755, exist_ok=True)

    def _discard(self, name: str) -> None:
        self._unmount(name)
        self._trash.put(self._fd, name)

    def _is_mounted(self, name: str) -> bool:
        directory = os.open(name, _DIRECTORY, dir_fd=self._fd)
        try:
            return local.is_mounted(directory, "_data")
        finally:
            os.close(directory)


def _shown(options: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(options.items())) or "none"
