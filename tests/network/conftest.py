"""The fixtures of tests that make networks."""

from tests.network.house import house, own_house, shared_house
from tests.network.street import shared_street

__all__ = ["house", "own_house", "shared_house", "shared_street"]
