"""The daemon these tests talk to."""

from tests.daemon_fixture import daemon

__all__ = ["daemon"]
