"""Images for a session: ``host``, and whatever is in the data root, beside its owner.

A data root has one owner, who changes it (a daemon, under the lock on it). A session only reads:
rows of the database, which SQLite lets other processes do at any time, and directories of layers,
which never change. That a layer is not collected meanwhile is said by a shared lock, flock(2), on
the topmost one's directory; its owner takes that exclusively to remove it (``claim_layer``). Such a
lock ends with the process that holds it, so nothing must be cleaned up after one that was killed.

The skeleton below the ``host`` image (``image.host``) is kept beside the sessions and made by
whichever finds it missing; those of what the machine's /etc was before are removed by the next.

    <data root>/sessions/host/<chain ID>/diff
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import InvalidArgument, NotFound
from sampan.image import host
from sampan.oci import digest as digests
from sampan.oci import reference as references
from sampan.sdk.roots import Base
from sampan.storage.drivers.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sampan.image.records import ImageRecords
    from sampan.image.types import Image
    from sampan.storage.database import Database

__all__ = ["Found", "Images"]

_is_hex = re.compile("[0-9a-f]{1,64}").fullmatch
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """An image, and what a root on it stands on."""

    image: Image
    base: Base


class Images:
    """Finds images for one session. Any thread may ask."""

    def __init__(
        self, data_root: str, skeletons: str, exclusive: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """``skeletons``: the directory of the ``host`` image's skeletons, which exists; in
        ``exclusive`` no other session begins or is swept."""
        self._data_root = data_root
        self._skeletons = skeletons
        self._exclusive = exclusive
        self._machine = host.Machine()
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self._host: Found | None = None
        self._signature: tuple[int, ...] = ()
        self._database: Database | None = None
        self._records: ImageRecords | None = None

    def close(self) -> None:
        """Let go of layers and of the database."""
        with self._lock:
            for fd in self._held.values():
                os.close(fd)
            self._held.clear()
            if self._database is not None:
                self._database.close()
                self._database = self._records = None

    def forget(self) -> None:
        """In a fork of this process: close our copies, which are locks that others wait for."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def find(self, name: str) -> Found:
        """The image of a name, an ID or its beginning.

        Raises NotFound, InvalidArgument, and NotSupported for a newer or older program's data root.
        """
        reference = None
        if not name.startswith("sha256:") and not (len(name) == 64 and _is_hex(name)):
            reference = references.parse(name)
            if host.is_host(reference):
                return self._find_host()
        image = self._row(name, reference)
        return Found(image, self._base(name, image))

    # The host image

    def _find_host(self) -> Found:
        with self._lock:
            signature = self._machine.signature()
            if self._host is None or signature != self._signature:
                self._host = self._make_host()
                self._signature = signature
            return self._host

    def _make_host(self) -> Found:
        entries = self._machine.entries()
        chain_id = host.digest(entries)
        place = f"{self._skeletons}/{digests.hexadecimal(chain_id)}"
        top = f"{place}/diff"
        image = host.describe(self._machine, entries, chain_id)
        self._check_system(image.system)
        with self._exclusive():
            if not os.path.isdir(place):
                self._unpack(place, entries)
            self._hold(place)
            os.utime(place)
        return Found(image, Base(top, top, image.system))

    def _check_system(self, system: tuple[str, ...]) -> None:
        """What is written must not lie below what is read (overlayfs: the one hides the other)."""
        for directory in system:
            if f"{self._skeletons}/".startswith(f"{directory.rstrip('/')}/"):
                raise InvalidArgument(
                    f"the data root {self._data_root} is in {directory}, which the image host "
                    "shows: choose another place"
                )

    def _unpack(self, place: str, entries: list[host.Entry]) -> None:
        staging = f"{place}.new"
        self._remove(f"{os.path.basename(place)}.new")  # of one that was interrupted or killed
        os.mkdir(staging, 0o700)
        os.mkdir(f"{staging}/diff", 0o755)
        fd = os.open(f"{staging}/diff", _DIRECTORY)
        try:
            os.fchmod(fd, 0o755)
            host.fill(fd, entries)
        finally:
            os.close(fd)
        os.rename(staging, place)

    def sweep(self) -> None:
        """Remove skeletons no session uses, and what a killed one had not finished; but for the one
        used last, which the next session most likely wants. The caller is alone (``exclusive``).
        """
        names = sorted(
            (os.stat(f"{self._skeletons}/{name}").st_mtime_ns, name)
            for name in os.listdir(self._skeletons)
        )
        last = next((name for _, name in reversed(names) if "." not in name), "")
        for name in (name for _, name in names if name != last):
            fd = os.open(f"{self._skeletons}/{name}", _DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove(name)
            except BlockingIOError:
                continue
            finally:
                os.close(fd)

    def _remove(self, name: str) -> None:
        parent = os.open(self._skeletons, _DIRECTORY)
        try:
            remove_tree(parent, name)
        finally:
            os.close(parent)

    # Images of the data root

    def _row(self, name: str, reference: references.Reference | None) -> Image:
        """As ``image.store`` finds them, its messages included."""
        records = self._open_records()
        shown = name if reference is None else reference.tagged().familiar
        missing = NotFound(
            f"No such image: {shown}; bring it into {self._data_root} with sampan pull, load or "
            "import"
        )
        if records is None:
            raise missing
        image_id = None if reference is None else records.by_reference(reference)
        if image_id is None:
            prefix = name.removeprefix("sha256:")
            found = records.by_prefix(prefix) if _is_hex(prefix) else []
            if len(found) > 1:
                raise InvalidArgument(
                    f"Multiple IDs found with provided prefix: {name}; give more of its digits"
                )
            image_id = found[0] if found else None
        image = None if image_id is None else records.get(image_id)
        if image is None:
            raise missing
        return image

    def _open_records(self) -> ImageRecords | None:
        with self._lock:
            if self._records is None and os.path.exists(f"{self._data_root}/sampan.db"):
                # Behind SQLite and what reads rows: the host image needs neither.
                from sampan.image.records import ImageRecords
                from sampan.storage.database import Database

                self._database = Database(f"{self._data_root}/sampan.db", read_only=True)
                self._records = ImageRecords(self._database)
            return self._records

    def _base(self, name: str, image: Image) -> Base:
        if not image.chain:
            raise InvalidArgument(f"image {name} has no layers: nothing can be run in it")
        assert self._database is not None
        rows = self._database.rows(
            "SELECT driver, boot_id FROM layers WHERE chain_id = ?"
            " ORDER BY driver = 'overlay2' DESC",
            (image.chain[-1],),
        )
        # What another run of the machine had not made durable is unpacked again by its owner.
        drivers = [driver for driver, boot in rows if boot in (None, self._boot_id())]
        if not drivers:
            raise NotFound(
                f"image {name}: its layers are not unpacked; start a daemon once, or load it again"
            )
        layers = f"{self._data_root}/{drivers[0]}/layers"
        places = [f"{layers}/{digests.hexadecimal(chain_id)}" for chain_id in image.chain]
        with self._lock:
            if not self._hold(places[-1]):
                raise NotFound(f"No such image: {name}; it has just been removed")
        below = reversed(places) if drivers[0] == "overlay2" else places[-1:]
        return Base(":".join(f"{place}/diff" for place in below), f"{places[-1]}/diff")

    def _boot_id(self) -> str:
        from sampan.storage.data_root import boot_id

        return boot_id()

    def _hold(self, place: str) -> bool:
        """Keep a layer until the session ends; False where it is being removed."""
        if place in self._held:
            return True
        try:
            fd = os.open(place, _DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Who removed it between the two calls had renamed it away first.
            if os.path.samestat(os.fstat(fd), os.stat(place)):
                self._held[place] = fd
                fd = -1
                return True
        except (BlockingIOError, FileNotFoundError):
            return False
        finally:
            if fd >= 0:
                os.close(fd)
        return False
