"""What every snapshot driver does, whatever file system trick it is made of.

A *layer* is the unpacked form of one layer of an image on top of its parent; its name is its chain
ID. A *container's* root file system is a chain of layers plus a place of its own to write. Drivers
hold no database: what they know can be read off their directory, so it can be neither lost nor out
of step. ``tests/storage/drivers/test_conformance.py`` is the same suite for each.

Layers are immutable from ``commit_layer`` on and are shared by everything above them. A driver
never mounts anything: ``mounts`` is a recipe, applied inside the container's mount namespace, so
that mounts die with their container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sampan.oci.runtime import Mount
    from sampan.storage.archive.applied import WhiteoutStyle
    from sampan.storage.archive.diff import Change
    from sampan.storage.archive.writer import Output, Written

__all__ = ["SnapshotDriver", "Staging", "Usage"]


class Staging(NamedTuple):
    """A layer in the making: unpack into the directory ``fd``, then commit or discard.

    ``lower`` holds descriptors of the layers below that ``fd`` does not show, the nearest first.
    """

    chain_id: str
    parent: str | None
    name: str
    fd: int
    lower: tuple[int, ...] = ()


class Usage(NamedTuple):
    """Disk space a tree holds: bytes as allocated, and inodes, each hard link counted once."""

    bytes: int
    inodes: int


class SnapshotDriver(Protocol):
    """The protocol. ``chain`` arguments list chain IDs from the lowest layer to the top one."""

    name: str
    whiteouts: WhiteoutStyle
    loose: bool
    """Whether a layer can be unpacked before those below it, and attached to them later."""

    def prepare_layer(self, chain_id: str, parent: str | None) -> Staging:
        """A private directory that already shows what the parent lays below, if that is needed."""

    def attach_layer(self, staging: Staging, chain_id: str, parent: str | None) -> Staging:
        """A layer prepared without a parent, on its parent now; see ``archive.settling``.

        Its descriptors are the new one's. Only for drivers that are ``loose``.
        """

    def seed_root(self, staging: Staging) -> None:
        """Give an attached layer's root the attributes of the one below, if it lists none."""

    def commit_layer(self, staging: Staging) -> None:
        """Make it a layer, atomically. Closes the descriptors. AlreadyExists if there is one."""

    def discard_layer(self, staging: Staging) -> None:
        """Give it up. Closes the descriptors."""

    def has_layer(self, chain_id: str) -> bool: ...

    def layers(self) -> list[str]:
        """Chain IDs of every layer on disk, in no order."""

    def layer_usage(self, chain_id: str) -> Usage: ...

    def claim_layer(self, chain_id: str) -> int | None:
        """A descriptor that keeps programs' sessions, and containers that are made, from starting
        to use a layer while it is open; None where one uses it."""

    def remove_layer(self, chain_id: str) -> None:
        """Remove a layer nothing uses any more; a missing one is no error."""

    def create_container(
        self,
        name: str,
        chain: Sequence[str],
        system: Sequence[str] = (),
        empty: Sequence[str] = (),
    ) -> None:
        """A writable root on top of ``chain``, with an empty file for each name in ``empty``.

        ``system`` names directories of this machine that appear in the container at the same path,
        each copy-on-write with a writable layer of its own (the ``host`` image).
        AlreadyExists, NotFound (a layer), NotSupported (``system``, by drivers that copy).
        """

    def mounts(self, name: str, *, disposable: bool = False) -> tuple[Mount, ...]:
        """The recipe: destinations relative to the container's root, "/" first.

        ``disposable``: what is written need not outlive this machine's next stop, for the container
        is removed when it ends.
        """

    def image_mount(self, chain: Sequence[str]) -> Mount:
        """What mounts an image by itself, read-only, at "/". NotFound (a layer)."""

    def hold_layer(self, name: str, chain_id: str) -> None:
        """Keep a layer, and what is below it, as long as the container is there. NotFound."""

    def held(self) -> set[str]:
        """Chain IDs of all that containers stand on or hold."""

    def changes(self, name: str, marks: Collection[bytes] = ()) -> list[Change]:
        """What differs from the layers below, sorted by path, without what is new and empty at the
        paths ``marks``: it was made to mount something on."""

    def diff(self, name: str, out: Output, marks: Collection[bytes] = ()) -> Written:
        """Write the changes as an uncompressed OCI layer; ``marks`` as above."""

    def usage(self, name: str) -> Usage:
        """What the container holds for itself."""

    def size(self, name: str, marks: Collection[bytes] = ()) -> int:
        """Bytes of the files that differ from the layers below; but for links at ``marks``."""

    def containers(self) -> dict[str, str]:
        """Every container on disk: its name, and the chain ID of its top layer."""

    def graph(self, name: str) -> dict[str, str]:
        """The paths of a container, in the Docker API's ``GraphDriver.Data`` words."""

    def layer_graph(self, chain: Sequence[str]) -> dict[str, str]:
        """The same for an image's layers."""

    def remove_container(self, name: str) -> None:
        """Rename the writable root away; its bytes go later. A missing one is no error."""

    def collect(self) -> None:
        """Delete now what was renamed away."""

    def close(self) -> None:
        """Stop background deletion and close descriptors."""
