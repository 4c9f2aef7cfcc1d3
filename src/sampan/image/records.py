"""Images and tags as rows: reading them back as values, and the few changes there are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import NotFound
from sampan.image.types import Image, to_seconds
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.oci import reference as references
from sampan.registry.types import Document

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from sampan.oci.reference import Reference
    from sampan.storage.database import Database

__all__ = ["ImageRecords"]

_COLUMNS = "id, document, parent, size, created, tagged"


class ImageRecords:
    """Tables ``images``, ``image_layers`` and ``tags``. Documents are decoded once and kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents: dict[str, oci.Image] = {}

    def get(self, image_id: str) -> Image | None:
        """One image by its full ID."""
        row = self._database.row(f"SELECT {_COLUMNS} FROM images WHERE id = ?", (image_id,))
        if row is None:
            return None
        tags = self._database.rows("SELECT reference FROM tags WHERE image_id = ?", (image_id,))
        return self._image(row, [tag[0] for tag in tags])

    def all(self) -> list[Image]:
        """Every image, the newest first."""
        tags: dict[str, list[str]] = {}
        with self._database.transaction() as connection:
            for reference, image_id in connection.execute("SELECT reference, image_id FROM tags"):
                tags.setdefault(image_id, []).append(reference)
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM images ORDER BY created DESC, id"
            ).fetchall()
        return [self._image(row, tags.get(row[0], [])) for row in rows]

    def by_reference(self, reference: Reference) -> str | None:
        """The ID a name stands for; a digest wins over a tag beside it."""
        wanted = reference.replace(tag=None) if reference.digest else reference.tagged()
        row = self._database.row("SELECT image_id FROM tags WHERE reference = ?", (str(wanted),))
        return None if row is None else str(row[0])

    def by_prefix(self, prefix: str) -> list[str]:
        """IDs whose hex begins so; two are enough to know that it is ambiguous."""
        rows = self._database.rows(
            "SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2",
            (f"sha256:{prefix}", f"sha256:{prefix}g"),
        )
        return [row[0] for row in rows]

    def tags_of(self, repository: Reference) -> list[Reference]:
        """Every tagged name of a repository, sorted."""
        prefix = f"{repository.name}:"
        rows = self._database.rows(
            "SELECT reference FROM tags WHERE reference >= ? AND reference < ? ORDER BY reference",
            (prefix, prefix[:-1] + ";"),
        )
        return [references.parse(row[0]) for row in rows]

    def insert(self, config: bytes, document: oci.Image, size: int, parent: str = "") -> str:
        """Add an image, or find it there already; its ID."""
        image_id = digests.of(config)
        diff_ids = document.rootfs.diff_ids
        chain = digests.chain_ids(diff_ids)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO images (id, document, parent, size, created, loaded)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (image_id, config, parent, size, to_seconds(document.created), time.time()),
            )
            connection.executemany(
                "INSERT INTO image_layers VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    (image_id, position, diff_id, chain[position])
                    for position, diff_id in enumerate(diff_ids)
                ],
            )
        return image_id

    def tag(self, image_id: str, names: Iterable[Reference]) -> None:
        """Point names at an image; they leave the image they pointed at."""
        with self._database.transaction() as connection:
            for name in names:
                connection.execute(
                    "INSERT INTO tags VALUES (?, ?)"
                    " ON CONFLICT (reference) DO UPDATE SET image_id = excluded.image_id",
                    (str(name), image_id),
                )
                _touch(connection, image_id)

    def untag(self, names: Sequence[Reference]) -> None:
        def work() -> None:
            for name in names:
                self._database.execute("DELETE FROM tags WHERE reference = ?", (str(name),))

        self._database.release(work)

    def delete(self, image_id: str) -> None:
        """The image, its tags and its claim on layers."""
        query = "DELETE FROM images WHERE id = ?"
        self._database.release(lambda: self._database.execute(query, (image_id,)), durable=True)
        self._documents.pop(image_id, None)

    def config(self, image_id: str) -> bytes:
        """The configuration as the bytes its ID is the digest of. NotFound: it was removed."""
        row = self._database.row("SELECT document FROM images WHERE id = ?", (image_id,))
        if row is None:
            raise NotFound(f"No such image: {image_id}")
        return bytes(row[0])

    def children(self, image_id: str) -> list[str]:
        """IDs of images that were committed from containers of this one."""
        rows = self._database.rows("SELECT id FROM images WHERE parent = ?", (image_id,))
        return [row[0] for row in rows]

    # What registries have of it

    def keep_manifest(self, image_id: str, document: Document) -> None:
        """A manifest or index that led to the image, as the bytes a digest is of."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO manifests VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (image_id, digest) DO UPDATE SET seen = excluded.seen",
                (image_id, document.digest, document.media_type, document.data, time.time()),
            )

    def manifests(self, image_id: str) -> list[Document]:
        """The newest first."""
        rows = self._database.rows(
            "SELECT media_type, digest, document FROM manifests WHERE image_id = ?"
            " ORDER BY seen DESC",
            (image_id,),
        )
        return [Document(*row) for row in rows]

    def add_origin(self, diff_id: str, digest: str, size: int, repository: str) -> None:
        """A repository (``domain/path``) has a layer, as this blob."""
        self._database.execute(
            "INSERT INTO layer_origins VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (diff_id, digest, repository, size),
        )

    def origins(self, diff_id: str) -> list[tuple[str, int, str]]:
        """Digest, size and repository of each."""
        rows = self._database.rows(
            "SELECT digest, size, repository FROM layer_origins WHERE diff_id = ?", (diff_id,)
        )
        return [(row[0], row[1], row[2]) for row in rows]

    def _image(self, row: tuple[str, bytes, str, int, float, float], tags: list[str]) -> Image:
        image_id, config, parent, size, created, tagged = row
        document = self._documents.get(image_id)
        if document is None:
            document = oci.Image.from_json(msgspec.json.decode(config))
            self._documents[image_id] = document
        names = [references.parse(tag) for tag in tags]
        return Image(
            id=image_id,
            document=document,
            chain=digests.chain_ids(document.rootfs.diff_ids),
            references=tuple(sorted(name.familiar for name in names if not name.digest)),
            digests=tuple(sorted(name.familiar for name in names if name.digest)),
            parent=parent,
            size=size,
            created=created,
            last_tag=tagged,
        )


def _touch(connection: sqlite3.Connection, image_id: str) -> None:
    connection.execute("UPDATE images SET tagged = ? WHERE id = ?", (time.time(), image_id))
