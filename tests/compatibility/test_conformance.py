"""Every operation of the API's document, asked as the document says and as it does not.

A small, always equal part of ``python -m bench.conformance``, which asks more and at random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.compatibility.document import document
from tests.daemon_fixture import Daemon, own_root

pytest.importorskip("schemathesis")

from tests.compatibility.fuzz import Fuzzer, operations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(document() is None, reason="the API's document is not here"),
]

EXAMPLES = 4
OPERATIONS = list(operations()) if document() is not None else []


@pytest.fixture(scope="module")
def fuzzer(quick: Path) -> Iterator[Fuzzer]:
    daemon = Daemon(own_root(quick))
    daemon.wrapper = ("unshare", "--net")
    one = Fuzzer(daemon)
    try:
        daemon.start()
        yield one
    finally:
        one.close()
        daemon.close()


@pytest.mark.parametrize(
    "operation", OPERATIONS, ids=lambda one: one.definition.raw.get("operationId")
)
def test_whatever_is_asked_is_answered_as_the_document_says(fuzzer: Fuzzer, operation: Any) -> None:
    fuzzer.run(operation, EXAMPLES)
    assert fuzzer.daemon.get("/_ping").body == b"OK"
