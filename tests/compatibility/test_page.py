"""docs/compatibility.md says what is: each operation and command, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sampan.api.docker.routing import KNOWN, Router
from sampan.api.docker.server import PARTS
from sampan.errors import SampanError
from tests.compatibility.page import PAGE
from tests.compatibility.tables import COMMANDS, OPERATIONS

TESTS = Path(__file__).parents[1]


@pytest.mark.skipif(not PAGE.exists(), reason="make compatibility writes it")
def test_the_page_names_tests_that_exist_and_has_every_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for operation in OPERATIONS:
        assert f"\n| {operation.name} | `{operation.method} {operation.path}` |" in text
    for command in COMMANDS:
        assert f"\n| `{command.name}` |" in text
    sources: dict[str, str] = {}
    for path, name in re.findall(r"`([a-z_/]+\.py)` (\w+)", text):
        source = sources.setdefault(path, (TESTS / path).read_text(encoding="utf-8"))
        assert f"def test_{name}(" in source, f"{path}: {name}: run make compatibility"


def test_every_operation_has_a_handler_or_a_name_to_be_refused_by() -> None:
    router = Router()
    for part in PARTS:
        router.add(part.ROUTES)
    served = {(method, path) for part in PARTS for method, path, _ in part.ROUTES}
    for method, path, name in KNOWN:
        assert (method, path) not in served, f"{name} is served: take it out of KNOWN"
    later = {(method, path) for method, path, _ in KNOWN}
    for row in OPERATIONS:
        if (row.method, row.path) in later:
            continue
        try:
            router.find(row.method, re.sub(r"\{[a-z]+\}", "x", row.path))
        except SampanError as error:
            pytest.fail(f"{row.name}: {error.message}")
