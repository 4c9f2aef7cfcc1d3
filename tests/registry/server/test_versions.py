"""Tags in the order of the versions they name."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
import semver
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.registry.server.database.sqlite import SqliteDatabase
from sampan.registry.server.schema import MIGRATIONS
from sampan.registry.server.versions import sort_key

NUMBERS = st.integers(0, 10**24)
# Letters and digits in one word are compared otherwise, on purpose.
WORDS = st.one_of(NUMBERS.map(str), st.text("abcXYZ-", min_size=1, max_size=4))
VERSIONS = st.builds(
    lambda numbers, words: ".".join(map(str, numbers)) + ("-" + ".".join(words) if words else ""),
    st.tuples(NUMBERS, NUMBERS, NUMBERS),
    st.lists(WORDS, max_size=3),
)

ORDER = """
latest
20240115
v3.13 3.13-rc10 3.13rc9 3.12.4 3.12-slim 3.12-alpine
2.0.0 2.0.0-rc.1 2.0.0-beta.11 2.0.0-beta.2 2.0.0-beta 2.0.0-alpha.beta 2.0.0-alpha.1 2.0.0-alpha
1.27.10 1.27.9 1.27.0_build.2 1.27.0 1.27 1.10 1.9
nightly-2024-10-2 nightly-2024-9-30 main develop build-103 build-20 8u312 3f2a9c1
sha256-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.sig
""".split()


@settings(max_examples=300, deadline=None)
@given(VERSIONS, VERSIONS)
def test_a_semantic_version_is_where_its_specification_puts_it(one: str, other: str) -> None:
    expected = semver.Version.parse(one).compare(other)
    first, second = sort_key(one), sort_key(other)
    assert (first > second) - (first < second) == expected


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789abcrvV._-", min_size=1, max_size=128))
def test_every_tag_has_a_place(tag: str) -> None:
    key = sort_key(tag)
    assert key.isascii() and key == sort_key(tag)


def test_newest_first_words_behind_versions_and_what_belongs_to_digests_last() -> None:
    shuffled = sorted(ORDER)
    assert sorted(shuffled, key=lambda tag: (sort_key(tag), tag), reverse=True) == ORDER


@pytest.mark.parametrize(("one", "other"), [("1.2", "1.2.0"), ("v1", "1"), ("01.02", "1.2")])
def test_different_spellings_of_a_version_are_equal(one: str, other: str) -> None:
    assert sort_key(one) == sort_key(other)


def test_tags_of_an_older_database_get_their_place(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as old:
        for statement in MIGRATIONS[0]:
            old.execute(statement)
        old.execute("INSERT INTO repositories VALUES (1, 'box', 0, 0, 5)")
        old.execute("INSERT INTO documents VALUES (1, 'sha256:0', 'data')")
        old.execute(
            "INSERT INTO manifests (id, repository, document, media_type, created) "
            "VALUES (1, 1, 1, 'text/plain', 0)"
        )
        old.executemany("INSERT INTO tags VALUES (1, ?, 1, 0)", [("1.10",), ("1.9",), ("latest",)])
        old.execute("PRAGMA user_version=1")
    database = SqliteDatabase(str(path))
    try:
        found = database.rows("SELECT name FROM tags ORDER BY version DESC")
        assert [row[0] for row in found] == ["latest", "1.10", "1.9"]
    finally:
        database.close()
