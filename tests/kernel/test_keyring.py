"""The session keyring of a container is its own."""

from __future__ import annotations

import os
from errno import EACCES, ENOKEY, ENOSYS

import pytest

from sampan.errors import KernelError
from sampan.kernel import keyring
from sampan.kernel.syscalls import c_string, syscall
from tests.kernel.forked import run_forked, skip

KEYCTL_SEARCH = 10
ADD_KEY = {"x86_64": 248, "aarch64": 217}


def search(serial: int, name: str) -> int:
    return syscall("keyctl", KEYCTL_SEARCH, serial, c_string("user"), c_string(name), 0)


def add(name: str) -> int:
    from sampan.kernel.syscalls import MACHINE, NUMBERS

    NUMBERS["add_key"] = ADD_KEY[MACHINE]
    where = keyring.KEY_SPEC_SESSION_KEYRING
    return syscall("add_key", c_string("user"), c_string(name), b"secret", 6, where)


def join(name: str) -> int:
    try:
        return keyring.join_session_keyring(name)
    except KernelError as error:
        if error.errno == ENOSYS:
            skip("this kernel has no keys")
        raise


def test_a_key_of_the_old_session_is_not_found_in_the_new() -> None:
    def body() -> None:
        first = join(f"sampan-test-{os.getpid()}-a")
        assert keyring.session_keyring() == first
        add("boat")
        assert search(first, "boat")
        second = join(f"sampan-test-{os.getpid()}-b")
        assert second != first
        with pytest.raises(KernelError) as caught:
            search(second, "boat")
        assert caught.value.errno == ENOKEY
        with pytest.raises(KernelError) as caught:
            search(first, "boat")
        # The second where nobody holds it any more, and it was collected.
        assert caught.value.errno in (EACCES, ENOKEY)

    run_forked(body)


def test_the_user_may_search_what_was_granted() -> None:
    def body() -> None:
        first = join(f"sampan-test-{os.getpid()}-c")
        add("boat")
        keyring.grant_user(first)
        join(f"sampan-test-{os.getpid()}-d")
        with pytest.raises(KernelError) as caught:
            search(first, "no such key")
        assert caught.value.errno == ENOKEY  # and not EACCES

    run_forked(body)
