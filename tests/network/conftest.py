"""The fixtures of tests that make networks."""

from tests.network.house import house, own_house, shared_house

__all__ = ["house", "own_house", "shared_house"]
