"""The registry's tables; docs/registry-server.md says what a row of each is.

Counts are kept by triggers, in whatever transaction changes what they count: a blob's ``links`` and
a link's ``refs`` are exact at every commit, which is what collection relies on.

``version_key`` is ``versions.sort_key``, which the connection that migrates lends to SQL.
"""

from __future__ import annotations

__all__ = ["MIGRATIONS"]

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE repositories (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            created REAL NOT NULL,
            changed REAL NOT NULL,
            pulls INTEGER NOT NULL DEFAULT 0
        )""",
        """CREATE TABLE blobs (
            id INTEGER PRIMARY KEY,
            digest TEXT NOT NULL UNIQUE,
            size INTEGER NOT NULL,
            key TEXT UNIQUE,
            created REAL NOT NULL,
            links INTEGER NOT NULL DEFAULT 0 CHECK (links >= 0)
        )""",
        "CREATE INDEX blobs_unlinked ON blobs(id) WHERE links = 0",
        """CREATE TABLE links (
            repository INTEGER NOT NULL REFERENCES repositories(id),
            blob INTEGER NOT NULL REFERENCES blobs(id),
            refs INTEGER NOT NULL DEFAULT 0 CHECK (refs >= 0),
            leased REAL NOT NULL,
            PRIMARY KEY (repository, blob)
        ) WITHOUT ROWID""",
        "CREATE INDEX links_by_blob ON links(blob)",
        "CREATE INDEX links_unused ON links(leased) WHERE refs = 0",
        """CREATE TABLE documents (
            id INTEGER PRIMARY KEY,
            digest TEXT NOT NULL UNIQUE,
            data BLOB NOT NULL
        )""",
        """CREATE TABLE manifests (
            id INTEGER PRIMARY KEY,
            repository INTEGER NOT NULL REFERENCES repositories(id),
            document INTEGER NOT NULL REFERENCES documents(id),
            media_type TEXT NOT NULL,
            artifact_type TEXT NOT NULL DEFAULT '',
            subject TEXT,
            annotations TEXT NOT NULL DEFAULT '{}',
            labels TEXT NOT NULL DEFAULT '{}',
            platforms TEXT NOT NULL DEFAULT '',
            created REAL NOT NULL,
            UNIQUE (repository, document)
        )""",
        "CREATE INDEX manifests_by_document ON manifests(document)",
        """CREATE INDEX manifests_by_subject ON manifests(repository, subject)
            WHERE subject IS NOT NULL""",
        """CREATE TABLE uses (
            manifest INTEGER NOT NULL REFERENCES manifests(id),
            blob INTEGER NOT NULL,
            repository INTEGER NOT NULL,
            PRIMARY KEY (manifest, blob),
            FOREIGN KEY (repository, blob) REFERENCES links(repository, blob)
        ) WITHOUT ROWID""",
        "CREATE INDEX uses_by_link ON uses(repository, blob)",
        """CREATE TABLE children (
            manifest INTEGER NOT NULL REFERENCES manifests(id),
            child INTEGER NOT NULL REFERENCES manifests(id),
            PRIMARY KEY (manifest, child)
        ) WITHOUT ROWID""",
        "CREATE INDEX children_by_child ON children(child)",
        """CREATE TABLE tags (
            repository INTEGER NOT NULL REFERENCES repositories(id),
            name TEXT NOT NULL,
            manifest INTEGER NOT NULL REFERENCES manifests(id),
            changed REAL NOT NULL,
            PRIMARY KEY (repository, name)
        ) WITHOUT ROWID""",
        "CREATE INDEX tags_in_order ON tags(repository, name COLLATE NOCASE, name)",
        "CREATE INDEX tags_by_manifest ON tags(manifest)",
        "CREATE INDEX tags_by_change ON tags(repository, changed)",
        """CREATE TABLE uploads (
            id TEXT PRIMARY KEY,
            repository TEXT NOT NULL,
            algorithm TEXT NOT NULL,
            touched REAL NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX uploads_by_age ON uploads(touched)",
        "CREATE TABLE trash (key TEXT PRIMARY KEY) WITHOUT ROWID",
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID",
        """CREATE TRIGGER links_made AFTER INSERT ON links BEGIN
            UPDATE blobs SET links = links + 1 WHERE id = NEW.blob;
        END""",
        """CREATE TRIGGER links_gone AFTER DELETE ON links BEGIN
            UPDATE blobs SET links = links - 1 WHERE id = OLD.blob;
        END""",
        """CREATE TRIGGER uses_made AFTER INSERT ON uses BEGIN
            UPDATE links SET refs = refs + 1
                WHERE repository = NEW.repository AND blob = NEW.blob;
        END""",
        """CREATE TRIGGER uses_gone AFTER DELETE ON uses BEGIN
            UPDATE links SET refs = refs - 1
                WHERE repository = OLD.repository AND blob = OLD.blob;
        END""",
        """CREATE VIRTUAL TABLE found USING fts5(
            name, description, labels, platforms,
            tokenize = "unicode61 remove_diacritics 2", prefix = '2 3'
        )""",
    ),
    (
        "ALTER TABLE tags ADD COLUMN version TEXT NOT NULL DEFAULT ''",
        "UPDATE tags SET version = version_key(name)",
        "CREATE INDEX tags_by_version ON tags(repository, version, name)",
        "ALTER TABLE manifests ADD COLUMN pulls INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE manifests ADD COLUMN pulled REAL",
    ),
    (
        # When it was last put, or a tag that stood for it went.
        "ALTER TABLE manifests ADD COLUMN touched REAL NOT NULL DEFAULT 0",
        "UPDATE manifests SET touched = created",
    ),
    (
        # What the storage has to know of an upload, and who may change that.
        "ALTER TABLE uploads ADD COLUMN state TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE uploads ADD COLUMN turn TEXT NOT NULL DEFAULT ''",
        # In the form that every database can have.
        "DROP INDEX tags_in_order",
        "CREATE INDEX tags_in_order ON tags(repository, lower(name), name)",
    ),
    (
        # Blobs, each once, and manifests: what a quota is held against.
        "ALTER TABLE repositories ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0",
        """UPDATE repositories SET bytes =
            (SELECT coalesce(sum(b.size), 0) FROM links l JOIN blobs b ON b.id = l.blob
                WHERE l.repository = repositories.id)
            + (SELECT coalesce(sum(length(d.data)), 0) FROM manifests m
                JOIN documents d ON d.id = m.document WHERE m.repository = repositories.id)""",
        """CREATE TRIGGER links_add_bytes AFTER INSERT ON links BEGIN
            UPDATE repositories SET bytes = bytes + (SELECT size FROM blobs WHERE id = NEW.blob)
                WHERE id = NEW.repository;
        END""",
        """CREATE TRIGGER links_take_bytes AFTER DELETE ON links BEGIN
            UPDATE repositories SET bytes = bytes - (SELECT size FROM blobs WHERE id = OLD.blob)
                WHERE id = OLD.repository;
        END""",
        """CREATE TRIGGER manifests_add_bytes AFTER INSERT ON manifests BEGIN
            UPDATE repositories SET bytes = bytes
                + (SELECT length(data) FROM documents WHERE id = NEW.document)
                WHERE id = NEW.repository;
        END""",
        """CREATE TRIGGER manifests_take_bytes AFTER DELETE ON manifests BEGIN
            UPDATE repositories SET bytes = bytes
                - (SELECT length(data) FROM documents WHERE id = OLD.document)
                WHERE id = OLD.repository;
        END""",
    ),
    (
        # What a registry is told once: how its bucket is called.
        "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    ),
)
