"""Device rules: by what can be opened, and their reduction to what v1 can hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.errors import InvalidArgument, NotSupported
from sampan.kernel.bpf import (
    attached_device_programs,
    device_program,
    load_device_program,
    replace_device_program,
)
from sampan.kernel.cgroups import Group, Hierarchy
from sampan.kernel.cgroups.devices import normal, table
from sampan.oci.runtime import DeviceRule
from tests.kernel.cgroups.workers import Worker

Work = Callable[[Group | None, Callable[[], object]], Worker]

NONE = DeviceRule(allow=False, access="rwm")
NULL, ZERO, FULL = (1, 3), (1, 5), (1, 7)


def rule(allow: bool, kind: str, major: int, minor: int, access: str) -> DeviceRule:
    return DeviceRule(allow=allow, type=kind, major=major, minor=minor, access=access)


@pytest.fixture
def nodes(tmp_path: Path) -> dict[tuple[int, int], str]:
    """Nodes of /dev/null, /dev/zero and /dev/full by number."""
    made = {}
    for number in (NULL, ZERO, FULL):
        made[number] = str(tmp_path / f"node-{number[1]}")
        os.mknod(made[number], stat.S_IFCHR | 0o666, os.makedev(*number))
    return made


def may(path: str, flags: int) -> bool:
    try:
        os.close(os.open(path, flags))
    except PermissionError:
        return False
    return True


@pytest.mark.root
@pytest.mark.v2
def test_rules_decide_what_can_be_opened(
    group: Group, work: Work, nodes: dict[tuple[int, int], str], tmp_path: Path
) -> None:
    group.allow_devices(
        [
            NONE,
            rule(True, "c", *NULL, "rwm"),
            rule(True, "c", *FULL, "r"),
            rule(True, "c", -1, -1, "m"),
        ]
    )

    def inside() -> None:
        assert may(nodes[NULL], os.O_RDWR)
        assert not may(nodes[ZERO], os.O_RDONLY)
        assert may(nodes[FULL], os.O_RDONLY)
        assert not may(nodes[FULL], os.O_WRONLY)
        assert not may(nodes[FULL], os.O_RDWR)
        os.mknod(tmp_path / "made", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        with pytest.raises(PermissionError):
            os.mknod(tmp_path / "block", stat.S_IFBLK | 0o666, os.makedev(7, 0))

    assert work(group, inside).wait() == 0


@pytest.mark.root
@pytest.mark.v2
def test_an_update_takes_away_and_adds(
    group: Group, work: Work, nodes: dict[tuple[int, int], str]
) -> None:
    def opens(*expected: tuple[int, int]) -> None:
        def inside() -> None:
            found = {number for number, path in nodes.items() if may(path, os.O_RDWR)}
            assert found == set(expected)

        assert work(group, inside).wait() == 0

    opens(NULL, ZERO, FULL)
    group.allow_devices([NONE, rule(True, "c", *NULL, "rwm")])
    opens(NULL)
    group.allow_devices([NONE, rule(True, "c", *ZERO, "rwm"), rule(True, "c", *NULL, "rw")])
    opens(NULL, ZERO)
    group.allow_devices([DeviceRule(allow=True), rule(False, "c", *NULL, "rwm")])
    opens(ZERO, FULL)
    group.allow_devices([DeviceRule(allow=True)])
    opens(NULL, ZERO, FULL)
    group.allow_devices([rule(True, "c", *FULL, "r"), rule(True, "c", *FULL, "w")])
    opens(FULL)


@pytest.mark.root
@pytest.mark.v2
def test_programs_are_exchanged_not_piled_up(
    hierarchy: Hierarchy, group: Group, work: Work, nodes: dict[tuple[int, int], str]
) -> None:
    if hierarchy.unified is None:
        pytest.skip("no v2 hierarchy")
    directory = os.open(group.paths()["unified"], os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number in (NULL, ZERO, FULL):
            program = load_device_program(device_program([rule(True, "c", *number, "rw")]))
            replace_device_program(directory, program)
            os.close(program)
            assert len(attached_device_programs(directory)) == 1

            def only(number: tuple[int, int] = number) -> None:
                assert {n for n, path in nodes.items() if may(path, os.O_RDWR)} == {number}

            assert work(group, only).wait() == 0
    finally:
        os.close(directory)


@pytest.mark.root
@pytest.mark.v2
def test_a_refused_program_carries_the_verifiers_words() -> None:
    from sampan.errors import KernelError

    # r0 is never set.
    with pytest.raises(
        KernelError, match=r"(?s)bpf device program of 1 instructions: .*R0 !read_ok"
    ):
        load_device_program(bytes([0x95, 0, 0, 0, 0, 0, 0, 0]))


def test_the_last_rule_wins_in_the_table() -> None:
    rules = normal(
        [
            rule(True, "c", 1, 3, "rwm"),
            NONE,
            rule(True, "c", 1, 5, "rw"),
            rule(True, "c", 1, 5, "m"),
            rule(True, "c", 5, -1, "rwm"),
            rule(False, "c", 1, 5, "w"),
        ]
    )
    assert table(rules) == (False, {("c", 1, 5): "rm", ("c", 5, None): "rwm"})


def test_a_wider_denial_takes_narrower_exceptions_with_it() -> None:
    rules = normal([rule(True, "c", 1, 3, "rwm"), rule(False, "c", -1, -1, "w")])
    assert table(rules) == (False, {("c", 1, 3): "rm"})


def test_a_hole_in_a_wildcard_is_refused_for_v1() -> None:
    with pytest.raises(NotSupported, match=r"deny c 1:3 w.*earlier rule for c 1:\*"):
        table(normal([rule(True, "c", 1, -1, "rwm"), rule(False, "c", 1, 3, "w")]))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (DeviceRule(allow=True, type="x"), r"devices\[0\]\.type"),
        (DeviceRule(allow=True, access="rx"), r"devices\[0\]\.access"),
        (DeviceRule(allow=True, type="c", major=-2), r"devices\[0\]\.major"),
        (DeviceRule(allow=True, type="c", minor=1 << 32), r"devices\[0\]\.minor"),
    ],
)
def test_a_malformed_rule_is_named(bad: DeviceRule, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        device_program([bad])
