"""One resolver for each test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.resolver.place import Place


@pytest.fixture
def place() -> Iterator[Place]:
    # Not pytest's directories, which only root may search: the process is nobody.
    with tempfile.TemporaryDirectory(prefix="sampan-resolver-") as directory:
        os.chmod(directory, 0o711)
        one = Place(Path(directory))
        try:
            yield one
        finally:
            one.close()
