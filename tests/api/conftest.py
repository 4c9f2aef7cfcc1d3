"""The daemon these tests talk to, and the registries it talks to."""

from tests.daemon_fixture import daemon
from tests.registry.registries import authority, liar, registry

__all__ = ["authority", "daemon", "liar", "registry"]
