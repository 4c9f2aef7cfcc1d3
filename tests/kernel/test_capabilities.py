"""The five sets: what is applied holds, also across a change of user and an execve."""

from __future__ import annotations

import os
import subprocess
from errno import EPERM
from typing import TYPE_CHECKING

import pytest

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import capabilities, processes
from sampan.kernel.capabilities import Caps, number
from tests.kernel.forked import run_forked

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

pytestmark = pytest.mark.root

CHOWN, KILL, NET_RAW, NET_BIND = (
    number(name) for name in ("CHOWN", "KILL", "NET_RAW", "NET_BIND_SERVICE")
)


def some(numbers: Iterable[int]) -> frozenset[int]:
    return frozenset(numbers)


def everywhere(numbers: Iterable[int]) -> Caps:
    names = some(numbers)
    return Caps(effective=names, permitted=names, inheritable=names, bounding=names, ambient=names)


def status_of(*command: str) -> dict[str, frozenset[int]]:
    """The sets /proc shows for a program executed from here."""
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.startswith("Cap"):
            mask = int(value, 16)
            found[key] = some(bit for bit in range(64) if mask >> bit & 1)
    return found


def test_there_are_41_names_in_the_kernels_order() -> None:
    assert len(capabilities.NAMES) == 41
    for name, value in (("CAP_CHOWN", 0), ("CAP_SYS_ADMIN", 21), ("CAP_CHECKPOINT_RESTORE", 40)):
        assert capabilities.NAMES[value] == name
        assert number(name) == number(name.lower()) == number(name[4:]) == value
    with pytest.raises(InvalidArgument, match="'CAP_FLY'"):
        number("CAP_FLY")


def test_the_last_one_is_found_both_ways() -> None:
    assert capabilities.last_supported() == capabilities._probe_last()
    assert capabilities.last_supported() >= 40


def test_what_is_read_is_what_proc_shows() -> None:
    shown = status_of("cat", f"/proc/{os.getpid()}/status")
    mine = capabilities.get()
    assert shown == {
        "CapInh": mine.inheritable,
        "CapPrm": mine.permitted,
        "CapEff": mine.effective,
        "CapBnd": mine.bounding,
        "CapAmb": mine.ambient,
    }


def test_five_different_sets_are_applied() -> None:
    def body() -> None:
        wanted = Caps(
            permitted=some({CHOWN, KILL, NET_RAW}),
            effective=some({CHOWN}),
            inheritable=some({KILL, NET_RAW}),
            bounding=some({CHOWN, KILL, NET_RAW, NET_BIND}),
            ambient=some({NET_RAW}),
        )
        assert capabilities.apply(wanted) == frozenset()
        assert capabilities.get() == wanted

    run_forked(body)


def test_what_is_not_to_be_had_is_returned() -> None:
    def body() -> None:
        have = capabilities.get()
        beyond = some({capabilities.last_supported() + 1})
        asked = some(range(41)) | beyond
        missing = capabilities.apply(everywhere(asked))
        assert missing == asked - (have.permitted & have.bounding)
        now = capabilities.get()
        assert now.effective == now.permitted == have.permitted
        assert now.ambient == now.inheritable & now.permitted

    run_forked(body)


def test_nothing_is_left_where_nothing_is_asked(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.touch()

    def body() -> None:
        assert capabilities.apply(Caps()) == frozenset()
        assert capabilities.get() == Caps()
        with pytest.raises(OSError, match="Operation not permitted"):
            os.chown(made, 1, 1)
        with pytest.raises(OSError, match="Operation not permitted"):
            os.chroot("/")
        assert status_of("cat", "/proc/self/status")["CapEff"] == frozenset()

    run_forked(body)


def test_an_inheritable_one_may_be_out_of_the_bounding_set() -> None:
    def body() -> None:
        wanted = Caps(inheritable=some({KILL}), bounding=some({CHOWN}))
        assert capabilities.apply(wanted) == frozenset()
        assert capabilities.get() == wanted

    run_forked(body)


def test_ambient_ones_reach_another_users_program() -> None:
    def body() -> None:
        processes.set_keep_capabilities()
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        assert capabilities.apply(everywhere({NET_BIND})) == frozenset()
        shown = status_of("cat", "/proc/self/status")
        assert shown["CapEff"] == shown["CapPrm"] == shown["CapBnd"] == some({NET_BIND})

    run_forked(body)


def test_without_ambient_another_users_program_has_none() -> None:
    def body() -> None:
        processes.set_keep_capabilities()
        os.setresuid(1000, 1000, 1000)
        mine = some({NET_BIND})
        capabilities.apply(Caps(effective=mine, permitted=mine, bounding=mine))
        assert capabilities.get().effective == mine
        assert status_of("cat", "/proc/self/status")["CapPrm"] == frozenset()

    run_forked(body)


def test_an_ambient_one_must_be_permitted_and_inheritable() -> None:
    def body() -> None:
        wanted = Caps(permitted=some({CHOWN}), bounding=some({CHOWN}), ambient=some({CHOWN}))
        assert capabilities.apply(wanted) == some({CHOWN})
        with pytest.raises(KernelError, match="PR_CAP_AMBIENT_RAISE CAP_CHOWN: EPERM"):
            capabilities.ambient_raise(CHOWN)

    run_forked(body)


def test_what_must_be_lost_and_cannot_be_is_an_error() -> None:
    def body() -> None:
        before = capabilities.get()
        no_setpcap = before.permitted - {capabilities.CAP_SETPCAP}
        capabilities.apply(
            Caps(permitted=no_setpcap, effective=no_setpcap, bounding=before.bounding)
        )
        with pytest.raises(KernelError, match="PR_CAPBSET_DROP CAP_") as caught:
            capabilities.apply(Caps(permitted=no_setpcap, effective=no_setpcap))
        assert caught.value.errno == EPERM
        # Nothing to drop from the bounding set: no right is needed for less.
        assert not capabilities.apply(Caps(permitted=some({KILL}), bounding=before.bounding))

    run_forked(body)


def test_it_is_applied_twice_alike() -> None:
    def body() -> None:
        wanted = everywhere({CHOWN, KILL})
        for _ in range(2):
            assert capabilities.apply(wanted) == frozenset()
            assert capabilities.get() == wanted

    run_forked(body)
