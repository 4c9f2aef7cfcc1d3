"""A store of its own for each test, which must be able to clean up after itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sampan.image.store import ImageStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def data_root(tmp_path: Path) -> str:
    return str(tmp_path / "data")


@pytest.fixture
def store(data_root: str) -> Iterator[ImageStore]:
    opened = ImageStore(data_root)
    yield opened
    opened.driver.collect()
    opened.close()
