"""``fsck``: is everything there that the rows say, and is it what its digest says?

It may run while the registry serves. A blob whose bytes are wrong or missing is set aside: whoever
asks for it is told that it is not there, so the next push brings it again; which tags that hurts is
said. Rows that disagree with one another cannot come from a crash, only from a bug or a broken
disk: they are told and left as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import NotFound
from sampan.oci import digest as digests
from sampan.registry.server import documents
from sampan.registry.server.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.registry.server.database.base import Transaction
    from sampan.registry.server.place import Place

__all__ = ["Problem", "check"]

_PIECE = 1 << 20

_COUNTS = (
    (
        "blob {} counts {} links and has {}",
        """SELECT digest, links, there FROM (SELECT b.digest, b.links,
            (SELECT count(*) FROM links WHERE blob = b.id) AS there FROM blobs b) AS counted
            WHERE links <> there""",
    ),
    (
        "the link of {} counts {} manifests and has {}",
        """SELECT name, refs, there FROM (SELECT r.name || '@' || b.digest AS name, l.refs,
            (SELECT count(*) FROM uses u
                WHERE u.repository = l.repository AND u.blob = l.blob) AS there
            FROM links l JOIN repositories r ON r.id = l.repository
            JOIN blobs b ON b.id = l.blob) AS counted WHERE refs <> there""",
    ),
    (
        "repository {} counts {} bytes and has {}",
        """SELECT name, bytes, there FROM (SELECT r.name, r.bytes,
            (SELECT coalesce(sum(b.size), 0) FROM links l
                JOIN blobs b ON b.id = l.blob WHERE l.repository = r.id)
            + (SELECT coalesce(sum(length(d.data)), 0) FROM manifests m
                JOIN documents d ON d.id = m.document WHERE m.repository = r.id) AS there
            FROM repositories r) AS counted WHERE bytes <> there""",
    ),
)

_HURT = """WITH RECURSIVE hurt(id) AS (
        SELECT u.manifest FROM uses u JOIN blobs b ON b.id = u.blob WHERE b.digest = ?1
        UNION SELECT m.id FROM manifests m JOIN documents d ON d.id = m.document
            WHERE d.digest = ?1
        UNION SELECT c.manifest FROM children c JOIN hurt h ON c.child = h.id
    )
    SELECT DISTINCT r.name || ':' || t.name FROM hurt h JOIN tags t ON t.manifest = h.id
    JOIN repositories r ON r.id = t.repository ORDER BY 1"""


class Problem(NamedTuple):
    """``hurt`` are the tags whose images cannot be pulled because of it."""

    text: str
    hurt: tuple[str, ...] = ()


def check(place: Place, *, read: bool = True) -> Iterator[Problem]:
    """Everything that is wrong. Without ``read`` blobs are held against their sizes only."""
    yield from _rows(place)
    yield from _documents(place)
    yield from _blobs(place, read)


def _rows(place: Place) -> Iterator[Problem]:
    for text in place.database.problems():
        yield Problem(f"database: {text}")
    for text, query in _COUNTS:
        for row in place.database.rows(query):
            yield Problem(text.format(*row))


def _documents(place: Place) -> Iterator[Problem]:
    """Manifests: their bytes, and that they hold on to what they name."""
    last = 0
    while row := place.database.row(
        "SELECT id, digest, data FROM documents WHERE id > ? ORDER BY id LIMIT 1", (last,)
    ):
        last, digest, data = row
        if digests.of(data, digest) != digest:
            yield Problem(f"manifest {digest}: its bytes are wrong", _hurt(place, digest))
            continue
        if place.upstream:
            continue  # a cache holds on to nothing
        for manifest, name, media_type in place.database.rows(
            """SELECT m.id, r.name, m.media_type FROM manifests m
                JOIN repositories r ON r.id = m.repository WHERE m.document = ?""",
            (last,),
        ):
            yield from _held(place, manifest, f"{name}@{digest}", media_type, data)


def _held(
    place: Place, manifest: int, name: str, media_type: str, data: bytes
) -> Iterator[Problem]:
    try:
        facts = documents.read(media_type, data)
    except Refusal as error:
        yield Problem(f"manifest {name}: {error.message}")
        return
    held = {
        row[0]
        for row in place.database.rows(
            """SELECT b.digest FROM uses u JOIN blobs b ON b.id = u.blob WHERE u.manifest = ?1
                UNION SELECT d.digest FROM children c JOIN manifests m ON m.id = c.child
                JOIN documents d ON d.id = m.document WHERE c.manifest = ?1""",
            (manifest,),
        )
    }
    wanted = {one.digest for one in (*facts.blobs, *facts.children) if one.required}
    if wanted - held and _is_there(place, manifest):
        yield Problem(f"manifest {name} does not hold {', '.join(sorted(wanted - held))}")


def _is_there(place: Place, manifest: int) -> bool:
    """It was not deleted while we looked."""
    return place.database.row("SELECT 1 FROM manifests WHERE id = ?", (manifest,)) is not None


def _blobs(place: Place, read: bool) -> Iterator[Problem]:
    last = 0
    while row := place.database.row(
        "SELECT id, digest, size, key FROM blobs WHERE id > ? ORDER BY id LIMIT 1", (last,)
    ):
        last, digest, size, key = row
        if key is None:
            hurt = _hurt(place, digest)
            yield Problem(f"blob {digest}: its bytes were lost before: push it again", hurt)
            continue
        wrong = _wrong(place, key, digest, size, read)
        if not wrong:
            continue
        where = _set_aside(place, last, key)
        if where is not None:
            yield Problem(f"blob {digest}: {wrong}{where}", _hurt(place, digest))


def _wrong(place: Place, key: str, digest: str, size: int, read: bool) -> str:
    """What is wrong with a blob's bytes, or nothing."""
    try:
        reader = place.storage.open(key)
    except NotFound:
        return "its bytes are missing"
    try:
        if reader.size != size:
            return f"it has {reader.size} bytes, not {size}"
        running, offset = digests.new_hash(digests.parse(digest)[0]), 0
        while read and (data := reader.read(offset, _PIECE)):
            running.update(data)
            offset += len(data)
    finally:
        reader.close()
    found = f"{digest.partition(':')[0]}:{running.hexdigest()}"
    return f"its bytes are those of {found}" if read and found != digest else ""


def _set_aside(place: Place, blob: int, key: str) -> str | None:
    """Where the bytes are now, as the end of a sentence; None where the blob is gone meanwhile."""
    row = place.database.row("SELECT 1 FROM blobs WHERE id = ? AND key = ?", (blob, key))
    if row is None:
        return None
    try:
        where = f"; set aside as {place.storage.set_aside(key)}"
    except NotFound:
        where = ""

    def forget(connection: Transaction) -> None:
        connection.execute("UPDATE blobs SET key = NULL WHERE id = ? AND key = ?", (blob, key))

    place.database.write(forget)
    return where


def _hurt(place: Place, digest: str) -> tuple[str, ...]:
    return tuple(row[0] for row in place.database.rows(_HURT, (digest,)))
