"""Seccomp as a container meets it: at the right moment, inherited by exec, and with an agent."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import SampanError, Unavailable
from sampan.runtime.exec import RunningContainer, execute
from sampan.runtime.profiles import default_seccomp
from tests.runtime.containers import CAPABILITIES, Run, make_bundle, process_of, run, shell, spec_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


def refusing(*names: str, errno: int = 1) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_ERRNO", "errnoRet": errno}],
    }


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_a_refused_call_fails(bundle: Path, no_new_privileges: bool) -> None:
    linux = {"seccomp": refusing("mkdir", "mkdirat", errno=28)}
    process = {"noNewPrivileges": no_new_privileges}
    code, output = run(bundle, "mkdir", "/tmp/x", linux=linux, process=process)
    assert code == 1 and "No space left" in output
    status = shell(bundle, "grep Seccomp: /proc/self/status", linux=linux, process=process)
    assert status.split() == ["Seccomp:", "2"]


def test_with_no_new_privileges_little_is_called_after_the_filter(bundle: Path) -> None:
    """Everything a program may have to do without, init can do without once its filter is on."""
    names = (
        "mount umount2 pivot_root setns unshare capset setgroups setresuid setresgid chdir "
        "fchdir fchown openat openat2 close_range socket sendmsg recvmsg seccomp statfs"
    ).split()
    profile = refusing(*names)
    profile["syscalls"][0]["action"] = "SCMP_ACT_KILL_PROCESS"
    del profile["syscalls"][0]["errnoRet"]
    process = {"noNewPrivileges": True, "user": {"uid": 1000, "gid": 1000}, "capabilities": None}
    assert run(bundle, "/bin/true", linux={"seccomp": profile}, process=process)[0] == 0


def test_the_default_profile(bundle: Path) -> None:
    profile = default_seccomp(CAPABILITIES).to_json()
    output = shell(
        bundle,
        "unshare -U true || echo refused; mkdir /tmp/made && rmdir /tmp/made && echo made",
        linux={"seccomp": profile},
    )
    assert output.split("\n")[-2:] == ["refused", "made"]


def test_exec_has_the_filter_too(bundle: Path) -> None:
    spec = spec_of("sleep", "100", linux={"seccomp": refusing("mkdir", "mkdirat")})
    container = Run(bundle, spec)
    container.child.start()
    try:
        target = RunningContainer(container.child.pid, spec)
        null = os.open("/dev/null", os.O_RDWR)
        child = execute(target, process_of("mkdir", "/tmp/y"), (null, null, null))
        os.close(null)
        assert child.wait() == 1
        child.close()
    finally:
        container.child.abort()
        os.close(container.output_fd)


def notifying(path: str) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "listenerMetadata": "for the agent",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    }


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_a_listener_is_handed_to_the_agent(
    bundle: Path, tmp_path: Path, no_new_privileges: bool
) -> None:
    path = str(tmp_path / "agent.sock")
    pid = os.fork()  # the runtime must have no threads, so the agent waits in this process
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        if pid == 0:
            code = 1
            try:
                while not os.path.exists(path):
                    os.sched_yield()
                spec = spec_of(
                    "true",
                    linux={"seccomp": notifying(path)},
                    process={"noNewPrivileges": no_new_privileges},
                    annotations={"a": "b"},
                )
                container = Run(bundle, spec, id="watched")
                code = container.finish()[0]
            finally:
                os._exit(code)
        server.bind(path + ".tmp")
        server.listen()
        os.rename(path + ".tmp", path)
        with server.accept()[0] as sock:
            data, fds, _, _ = socket.recv_fds(sock, 65536, 4)
    message = json.loads(data)
    assert len(fds) == 1 and "seccomp notify" in os.readlink(f"/proc/self/fd/{fds[0]}")
    os.close(fds[0])
    assert message["fds"] == ["seccompFd"]
    assert message["metadata"] == "for the agent"
    assert message["ociVersion"] == "1.2.0"
    assert message["pid"] == message["state"]["pid"]
    assert message["state"]["id"] == "watched" and message["state"]["status"] == "creating"
    assert message["state"]["annotations"] == {"a": "b"}
    assert os.waitpid(pid, 0)[1] == 0


def test_an_agent_that_is_not_there_is_an_error(bundle: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    with pytest.raises(Unavailable, match=r"none\.sock"):
        Run(bundle, spec_of("true", linux={"seccomp": notifying(path)}))
    profile = notifying(path)
    del profile["listenerPath"], profile["listenerMetadata"]
    with pytest.raises(SampanError, match="listenerPath"):
        Run(bundle, spec_of("true", linux={"seccomp": profile}))


def test_threads_in_the_caller_are_refused(bundle: Path) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(SampanError, match="threads"):
            Run(bundle, spec_of("true"))
    finally:
        done.set()
        thread.join()
