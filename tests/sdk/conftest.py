"""A session per module of tests, in a data root of its own; a test may leave nothing in it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sampan
from sampan.kernel import cgroups
from tests.daemon_fixture import daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["daemon"]

PATIENCE = 60.0


def groups(session: str) -> list[str]:
    """Directories of the cgroups of a session's containers."""
    found = []
    for mount in set(cgroups.detect().mounts.values()):
        top = Path(f"{mount}/sampan-sessions/{session}")
        found += [str(path) for path in top.glob("*") if path.is_dir()]
    return found


def sessions(data_root: Path) -> list[Path]:
    """Directories of sessions below a data root."""
    top = data_root / "sessions"
    names = set(os.listdir(top)) - {"host", "lock"} if top.exists() else set()
    return [top / name for name in sorted(names)]


def left(data_root: Path) -> list[str]:
    """What is there of containers of the sessions on a data root, but for what is being deleted."""
    found = []
    for session in sessions(data_root):
        found += groups(session.name)
        found += [str(path) for path in (session / "c").iterdir()]
    return found


def undeleted(data_root: Path) -> list[Path]:
    """What sessions are about to delete."""
    return [path for session in sessions(data_root) for path in (session / "dead").iterdir()]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("sdk")
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def shared(data_root: Path) -> Iterator[sampan.Session]:
    with sampan.Session(data_root) as session:
        yield session
    assert sessions(data_root) == []


@pytest.fixture
def session(shared: sampan.Session, data_root: Path) -> Iterator[sampan.Session]:
    yield shared
    assert left(data_root) == []


@pytest.fixture
def enough(session: sampan.Session) -> float:
    """Seconds in which a container has certainly begun and said something, here and now."""
    session.run("host", ["true"])
    begin = time.monotonic()
    session.run("host", ["true"])
    return max(1.0, 20 * (time.monotonic() - begin))
