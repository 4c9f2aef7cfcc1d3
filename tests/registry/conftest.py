"""The registries these tests talk to."""

from tests.registry.registries import authority, liar, registry

__all__ = ["authority", "liar", "registry"]
