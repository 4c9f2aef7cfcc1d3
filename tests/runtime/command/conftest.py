"""One state directory a test, emptied whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.runtime.command.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    directory = tmp_path / "runtime"
    directory.mkdir()
    made = Runtime(directory)
    try:
        yield made
    finally:
        made.clean()
