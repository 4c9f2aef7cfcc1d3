"""The daemon these tests talk to, and the client that talks to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon_fixture import Daemon, daemon

__all__ = ["Sampan", "daemon", "sampan"]

Sampan = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def sampan(daemon: Daemon) -> Sampan:
    """Run ``sampan`` against the module's daemon; ``stdin`` is text, ``check`` demands success."""

    def call(*argv: str, stdin: str = "", check: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "sampan.cli", "-H", daemon.host, *argv],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=Path(__file__).parent,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return call
