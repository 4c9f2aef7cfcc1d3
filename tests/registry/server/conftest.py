"""One registry per module of tests, in memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.server.buckets import ENVIRONMENT, Bucket
from tests.registry.server.clusters import Cluster
from tests.registry.server.house import House


@pytest.fixture
def root(quick: Path) -> Iterator[Path]:
    """A place for one registry, removed afterwards."""
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    yield place / "root"
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def house(quick: Path) -> Iterator[House]:
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    one = House(place / "root").start()
    yield one
    one.close()
    shutil.rmtree(place)


@pytest.fixture(scope="module", params=["directory and SQLite", "bucket and PostgreSQL"])
def anywhere(request: pytest.FixtureRequest, quick: Path) -> Iterator[House]:
    """One for each kind of place that rows and bytes may be in; bytes come from the server."""
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    one = House(place / "root")
    if "bucket" in request.param:
        bucket, cluster = map(request.getfixturevalue, ("bucket", "cluster"))
        one.where += ("--storage", bucket.address(place.name), "--database", cluster.make())
        one.options += ("--no-redirect",)
    yield one.start()
    one.close()
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def bucket(quick: Path) -> Iterator[Bucket]:
    """Whoever uses it takes a prefix of his own."""
    place = Path(tempfile.mkdtemp(prefix="bucket-", dir=quick))
    one = Bucket(place / "buckets")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield one
    one.close()
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL; whoever uses it takes a database of his own."""
    one = Cluster()
    yield one
    one.close()
