"""Sealed memory files: nobody can change them, and a program in one runs."""

from __future__ import annotations

import os
import subprocess
import sys
from errno import EINVAL, ENOENT, EPERM, ETXTBSY
from pathlib import Path

import pytest

from sampan.errors import KernelError
from sampan.kernel import memory
from tests.kernel.forked import run_forked

INTERPRETER = os.path.realpath(sys.executable)


def refuses_every_change(fd: int) -> None:
    size = os.fstat(fd).st_size
    for change in (
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.ftruncate(fd, 0),
        lambda: os.ftruncate(fd, size + 1),
        lambda: os.pwrite(fd, b"x", size),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == EPERM
    anew = os.open(f"/proc/self/fd/{fd}", os.O_RDWR) if os.getuid() == 0 else -1
    if anew >= 0:
        with pytest.raises(OSError) as caught:
            os.write(anew, b"x")
        assert caught.value.errno == EPERM
        os.close(anew)


def test_bytes_are_there_from_the_start_and_for_good() -> None:
    data = os.urandom(300_000)
    fd = memory.sealed_bytes(data, "letters")
    try:
        assert not os.get_inheritable(fd)
        assert memory.seals(fd) & memory.SEALS == memory.SEALS
        with open(fd, "rb", closefd=False) as file:
            assert file.read() == data
        refuses_every_change(fd)
    finally:
        os.close(fd)


def test_no_bytes_at_all() -> None:
    fd = memory.sealed_bytes(b"", "empty")
    assert os.fstat(fd).st_size == 0
    os.close(fd)


def test_a_copy_is_whole() -> None:
    fd = memory.sealed_copy(INTERPRETER, "copy")
    try:
        with open(fd, "rb", closefd=False) as file:
            assert file.read() == Path(INTERPRETER).read_bytes()
        refuses_every_change(fd)
    finally:
        os.close(fd)


def test_the_seals_themselves_are_sealed() -> None:
    import fcntl

    fd = memory.sealed_bytes(b"x", "sealed")
    with pytest.raises(OSError):
        fcntl.fcntl(fd, 1033, 0x10)
    os.close(fd)


def test_the_interpreter_runs_from_its_copy_and_finds_its_library() -> None:
    fd = memory.sealed_copy(INTERPRETER, "python")
    script = "import os, json, sys; print(os.readlink('/proc/self/exe'), sys.version_info[:2])"
    try:
        ran = subprocess.run(
            [INTERPRETER, "-I", "-S", "-c", script],
            executable=f"/proc/self/fd/{fd}",
            pass_fds=[fd],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(fd)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"/memfd:python (deleted) {sys.version_info[:2]}\n"


def test_the_descriptor_can_be_executed_though_it_is_closed_on_exec() -> None:
    def body() -> None:
        fd = memory.sealed_copy(INTERPRETER, "python")
        pid = os.fork()
        if pid == 0:
            os.execve(fd, [INTERPRETER, "-I", "-S", "-c", "import json; raise SystemExit(5)"], {})
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5

    run_forked(body)


@pytest.mark.root
def test_the_running_copy_cannot_be_written_by_root() -> None:
    fd = memory.sealed_copy(INTERPRETER, "python")
    child = subprocess.Popen(
        [INTERPRETER, "-I", "-S", "-c", "print(flush=True); input()"],
        executable=f"/proc/self/fd/{fd}",
        pass_fds=[fd],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    os.close(fd)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        exe = f"/proc/{child.pid}/exe"
        with pytest.raises(OSError) as caught:
            os.open(exe, os.O_WRONLY)
        assert caught.value.errno == ETXTBSY
        # What the attack waits for: the program has ended, a descriptor to its file has not.
        handle = os.open(exe, os.O_PATH)
    finally:
        child.communicate()
    with pytest.raises(OSError) as caught:
        opened = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY)
        os.write(opened, b"#!/bin/evil")
    assert caught.value.errno in (EPERM, ETXTBSY)
    os.close(handle)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(KernelError, match="open /no/interpreter: ENOENT") as caught:
        memory.sealed_copy("/no/interpreter", "x")
    assert caught.value.errno == ENOENT


def test_a_plain_file_has_no_seals(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    fd = os.open(tmp_path / "plain", os.O_RDWR)
    with pytest.raises(KernelError) as caught:
        memory.seals(fd)
    assert caught.value.errno == EINVAL
    os.close(fd)
