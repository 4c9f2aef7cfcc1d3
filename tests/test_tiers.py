"""Import tiers: what a process of each tier may load (docs/architecture.md)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"

TIER_0 = [
    "sampan.cli.main",
    "sampan.cli.commands.completion",
    "sampan.cli.commands.context",
    "sampan.cli.commands.images",
    "sampan.cli.commands.inspect",
    "sampan.cli.commands.lifecycle",
    "sampan.cli.commands.listing",
    "sampan.cli.commands.manifest",
    "sampan.cli.commands.run",
    "sampan.network.resolver.main",
    "sampan.runtime.command.main",
    "sampan.runtime.supervisor.zygote",
    "sampan.runtime.supervisor.monitor",
]
# Slow, or a way to code that has no business near a container.
FORBIDDEN = ["asyncio", "dataclasses", "inspect", "logging", "pathlib", "subprocess", "tempfile"]
# The runtime's own processes are held tighter than the client.
FORBIDDEN_BELOW = ["http", "email", "argparse", "ssl", "urllib", "shutil"]


def loaded(module: str) -> set[str]:
    """Names in sys.modules after importing ``module`` in a bare interpreter."""
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import {module}; "
        "print(*sorted(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("module", TIER_0)
def test_tier_0_is_the_lean_part_of_the_standard_library(module: str) -> None:
    names = loaded(module)
    roots = {name.partition(".")[0] for name in names}
    foreign = {
        name
        for name in roots
        if name not in sys.stdlib_module_names and name not in ("sampan", "__main__")
    }
    assert not foreign
    assert not roots & set(FORBIDDEN)
    if module.startswith("sampan.runtime"):
        assert not roots & set(FORBIDDEN_BELOW)


@pytest.mark.parametrize(
    ("module", "most"),
    [
        ("sampan.cli.main", 70),
        ("sampan.network.resolver.main", 105),
        ("sampan.runtime.supervisor.zygote", 182),
    ],
)
def test_the_number_of_modules_is_held(module: str, most: int) -> None:
    assert len(loaded(module)) <= most
