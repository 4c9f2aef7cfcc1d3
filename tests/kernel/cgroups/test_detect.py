"""Which hierarchies are found, from this machine and from others' mountinfo lines."""

from __future__ import annotations

import pytest

from sampan.kernel.cgroups import detect

pytestmark = [pytest.mark.root]


@pytest.mark.v2
def test_finds_this_machines_hierarchies() -> None:
    hierarchy = detect()
    assert hierarchy.kind in ("v1", "v2", "hybrid")
    assert {"cpu", "memory", "pids"} <= set(hierarchy.controllers)
