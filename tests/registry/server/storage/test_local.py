"""What a directory of files has to do that no other storage has: to sync names as well as bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.registry.server.storage import local
from sampan.registry.server.storage.local import LocalStorage
from tests.registry.registries import sha256


def stored(storage: LocalStorage, upload: str, data: bytes) -> Path:
    """Where the blob is."""
    appender = storage.append(upload, "")
    appender.append(data)
    appender.close()
    return Path(storage.root) / "blobs" / storage.seal(upload, sha256(data), "")


def test_names_are_synced_whoever_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have made a directory, and died before it was durable."""
    hexadecimal = sha256(b"one")[7:]
    left = tmp_path / "blobs" / "sha256" / hexadecimal[:2]
    left.mkdir(parents=True)
    synced: list[str] = []
    monkeypatch.setattr(local, "_sync", synced.append)
    storage = LocalStorage(str(tmp_path))
    assert stored(storage, "0" * 32, b"one").parent == left
    chain = [tmp_path, *left.parents[1::-1], left, tmp_path / "uploads"]
    assert synced == [str(path) for path in chain]
    synced.clear()
    stored(storage, "1" * 32, b"one")
    assert synced == [str(left), str(tmp_path / "uploads")]
