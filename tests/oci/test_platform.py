"""Platforms, by the names of Go and of the kernel."""

from __future__ import annotations

import pytest

from sampan.errors import InvalidArgument
from sampan.oci import platform as platforms
from sampan.oci.platform import Platform


@pytest.mark.parametrize(
    ("machine", "shown"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64/v8"),
        ("armv7l", "linux/arm/v7"),
        ("i686", "linux/386"),
        ("riscv64", "linux/riscv64"),
    ],
)
def test_machines_have_platform_names(machine: str, shown: str) -> None:
    assert str(platforms.machine(machine)) == shown


def test_an_unknown_machine_is_named() -> None:
    with pytest.raises(InvalidArgument, match="pdp11"):
        platforms.machine("pdp11")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("linux/amd64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/arm64", "linux/arm64/v8"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux", str(platforms.machine())),
    ],
)
def test_platforms_are_parsed(text: str, shown: str) -> None:
    assert str(platforms.parse(text)) == shown


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        platforms.parse(text)


def test_a_missing_variant_is_the_usual_one() -> None:
    wanted = platforms.machine("aarch64")
    assert platforms.matches(wanted, Platform(architecture="arm64"))
    assert platforms.matches(wanted, Platform(architecture="arm64", variant="v8"))
    assert not platforms.matches(wanted, Platform(architecture="arm64", variant="v9"))
    assert not platforms.matches(wanted, Platform(architecture="amd64"))
    assert not platforms.matches(wanted, Platform(architecture="arm64", os="windows"))
