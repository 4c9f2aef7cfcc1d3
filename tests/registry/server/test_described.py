"""Each operation of the description is asked for what it allows and for what it does not; longer
runs are ``python -m bench.registry_fuzz --described``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("schemathesis")

from tests.registry.server.described import Describer, operations
from tests.registry.server.fuzz import two

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLES = (4, 1)
OPERATIONS = list(operations())


@pytest.fixture(scope="module")
def describers(quick: Path) -> Iterator[list[Describer]]:
    """Of an open registry, and of one with accounts."""
    with two(quick) as fuzzers:
        both = [Describer(fuzzer) for fuzzer in fuzzers]
        yield both
        for one in both:
            one.close()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.definition.raw["operationId"])
def test_whatever_is_asked_is_answered_as_described(
    describers: list[Describer], operation: Any
) -> None:
    for one, examples in zip(describers, EXAMPLES, strict=True):
        one.run(operation, examples)
