"""The door to the kernel: numbers, whole registers, errors that say what failed on what."""

from __future__ import annotations

import os
import re
from errno import EBADF, ENOENT, ENOSYS
from pathlib import Path

import pytest

from sampan.errors import InvalidArgument, KernelError, NotSupported
from sampan.kernel import syscalls
from sampan.kernel.syscalls import c_string, syscall

HEADERS = {
    0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("column", [0, 1])
def test_numbers_agree_with_the_kernels_headers(column: int) -> None:
    header = HEADERS[column]
    if not header.exists():
        pytest.skip(f"{header} is not here")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    table = syscalls._TABLE
    wrong = {
        name: (row[column], found[name])
        for name, row in table.items()
        if name in found and int(found[name]) != row[column]
    }
    assert wrong == {}
    assert len(table.keys() & found.keys()) > len(table) * 0.9


def test_a_failure_names_call_target_and_errno() -> None:
    with pytest.raises(KernelError) as caught:
        syscall("umount2", c_string("/no/such/place"), 0, target="/no/such/place")
    assert caught.value.errno == ENOENT
    assert str(caught.value) == "umount2 /no/such/place: ENOENT (No such file or directory)"


def test_a_call_that_succeeds_returns_its_result() -> None:
    assert syscall("gettid") == os.getpid()


def test_an_unknown_call_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match="fork_and_dance"):
        syscall("fork_and_dance")


def test_a_call_the_kernel_lacks_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(syscalls.NUMBERS, "gettid", 5000)
    with pytest.raises(KernelError, match="newer kernel") as caught:
        syscall("gettid")
    assert caught.value.errno == ENOSYS


def test_arguments_are_whole_registers() -> None:
    # 2**32 in close_range's flags: a register cut to 32 bits would be the valid 0.
    with pytest.raises(KernelError) as caught:
        syscall("openat2", -100, b"/", syscalls.buffer(b"\0" * 16 + b"\0\0\0\0\1\0\0\0"), 24)
    assert caught.value.errno != EBADF
    with pytest.raises(KernelError) as caught:
        syscall("fstatfs", -1, syscalls.buffer(120))
    assert caught.value.errno == EBADF


def test_a_nul_in_a_path_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="NUL"):
        c_string("/etc/passwd\0.png")


def test_undecodable_names_come_through() -> None:
    assert c_string(os.fsdecode(b"caf\xe9")) == b"caf\xe9"
