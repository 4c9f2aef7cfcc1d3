"""One registry per module of tests, in memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
