"""``run``: what goes in, and what comes out."""

from __future__ import annotations

import json
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest

import sampan
from sampan.sdk.options import size

pytestmark = pytest.mark.root


@pytest.mark.v2
def test_a_command_and_its_result(session: sampan.Session) -> None:
    result = session.run("host", ["python3", "-c", "print(6 * 7)"], memory="256m", timeout=60)
    assert (result.ok, result.exit_code, result.text) == (True, 0, "42\n")
    assert result.outcome is sampan.Outcome.EXITED
    assert (result.signal, result.timed_out, result.oom_killed) == (None, False, False)
    assert result.stderr == b""
    usage = result.usage
    assert 0 < usage.user_time + usage.system_time <= usage.cpu_time * 1.01 + 0.01
    assert 0 < usage.wall_time < 30
    assert 1 << 20 < usage.peak_memory < 256 << 20


def test_exit_codes_and_both_streams(session: sampan.Session) -> None:
    result = session.run("host", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.exit_code, result.text, result.error_text) == (3, "out\n", "err\n")
    assert not result.ok


def test_the_streams_may_be_one(session: sampan.Session) -> None:
    line = "echo 1; echo 2 >&2; echo 3"
    assert session.run("host", ["sh", "-c", line], merge_stderr=True).text == "1\n2\n3\n"


@pytest.mark.parametrize("data", [b"", b"\0\xff\n", b"x" * 300_000, "ünïcode"])
def test_input_goes_in_to_its_end(session: sampan.Session, data: bytes | str) -> None:
    expected = data.encode() if isinstance(data, str) else data
    assert session.run("host", ["cat"], input=data).stdout == expected


def test_input_nobody_reads_is_no_error(session: sampan.Session) -> None:
    assert session.run("host", ["true"], input=b"x" * 1_000_000).ok


def test_without_input_there_is_none(session: sampan.Session) -> None:
    assert session.run("host", ["cat"]).stdout == b""


def test_binary_output(session: sampan.Session) -> None:
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"
    result = session.run("host", ["python3", "-c", code])
    assert result.stdout == bytes(range(256)) * 1000


def test_output_is_kept_to_its_limit_and_counted_beyond(session: sampan.Session) -> None:
    line = "head -c 30000000 /dev/zero; head -c 5 /dev/zero >&2"
    result = session.run("host", ["sh", "-c", line], output_limit="1m")
    assert (len(result.stdout), result.stdout_size) == (1 << 20, 30_000_000)
    assert (len(result.stderr), result.stderr_size) == (5, 5)
    assert result.truncated
    assert not session.run("host", ["true"]).truncated


def test_the_process_is_as_asked(session: sampan.Session) -> None:
    code = (
        "import json, os, socket, resource; print(json.dumps([os.getcwd(), os.getuid(), "
        "os.getgroups(), socket.gethostname(), os.environ['A'], "
        "resource.getrlimit(resource.RLIMIT_NOFILE)]))"
    )
    result = session.run(
        "host",
        ["python3", "-c", code],
        workdir="/tmp",
        user=65534,
        groups=[7],
        hostname="ship",
        env={"A": "b=c"},
        ulimits={"nofile": (100, 200)},
    )
    cwd, user, groups, *rest = json.loads(result.text)
    assert (cwd, user) == ("/tmp", 65534)
    assert 7 in groups
    assert rest == ["ship", "b=c", [100, 200]]


def test_the_environment_is_not_the_programs(
    session: sampan.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "1")
    assert "SECRET" not in session.run("host", ["env"]).text


@pytest.mark.v2
def test_limits_are_the_kernels(session: sampan.Session) -> None:
    code = (
        "import os; from pathlib import Path\n"
        "names = [('memory', 'memory.limit_in_bytes', 'memory.max'), ('pids', 'pids.max', "
        "'pids.max'), ('cpu', 'cpu.cfs_quota_us', 'cpu.max')]\n"
        "for v1, old, new in names:\n"
        "  for path in (f'/sys/fs/cgroup/{v1}/{old}', f'/sys/fs/cgroup/{new}'):\n"
        "    if os.path.exists(path): print(Path(path).read_text().split()[0]); break"
    )
    result = session.run("host", ["python3", "-c", code], memory="64m", pids=20, cpus=0.5)
    assert result.text.split() == [str(64 << 20), "20", "50000"], result


@pytest.mark.parametrize("options", [{}, {"network": None}, {"network": "none"}])
def test_there_is_no_network_but_its_own_loopback(
    session: sampan.Session, options: dict[str, Any]
) -> None:
    code = (
        "import socket; print(sorted(name for _, name in socket.if_nameindex())); "
        "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    )
    result = session.run("host", ["python3", "-c", code], **options)
    assert result.text == "['lo']\n", result


def test_the_machines_network_when_asked_for(session: sampan.Session) -> None:
    code = "import socket; print(len(socket.if_nameindex()))"
    result = session.run("host", ["python3", "-c", code], network="host")
    assert int(result.text) == len(socket.if_nameindex())


def test_a_read_only_root(session: sampan.Session) -> None:
    result = session.run(
        "host",
        ["sh", "-c", "touch /tmp/a; touch /x"],
        read_only=True,
        mounts=[sampan.Tmpfs("/tmp", size="1m")],
    )
    assert "Read-only" in result.error_text
    assert "/tmp/a" not in result.error_text


def test_mounts(session: sampan.Session, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("in\n")
    (tmp_path / "own").mkdir()
    result = session.run(
        "host",
        ["sh", "-c", "cat /data/in; echo x > /data/in; echo y > /own/out; stat -fc %T /mem"],
        mounts=[
            sampan.Bind(tmp_path, "/data", read_only=True),
            sampan.Bind(str(tmp_path / "own"), "/own"),
            sampan.Tmpfs("/mem", size=1 << 20, mode=0o700, executable=True),
        ],
    )
    assert result.text == "in\ntmpfs\n"
    assert "Read-only" in result.error_text
    assert (tmp_path / "own/out").read_text() == "y\n"


def test_what_it_may_do(session: sampan.Session) -> None:
    words = ["grep", "-E", "CapEff|NoNewPrivs|Seccomp:", "/proc/self/status"]

    def status(**options: Any) -> dict[str, str]:
        text = session.run("host", words, **options).text
        return dict(line.split(":\t", 1) for line in text.splitlines())

    assert status()["Seccomp"] == "2"
    assert int(status(cap_drop=["ALL"])["CapEff"], 16) == 0
    assert int(status(cap_drop=("ALL",), cap_add=["KILL"])["CapEff"], 16) == 1 << 5
    assert status(no_new_privileges=True)["NoNewPrivs"] == "1"
    assert status(seccomp="unconfined")["Seccomp"] == "0"


def test_a_seccomp_profile_of_ones_own(session: sampan.Session) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    result = session.run("host", ["mkdir", "/x"], seccomp=profile)
    assert "Operation not permitted" in result.error_text


def test_an_init_of_ours(session: sampan.Session) -> None:
    assert "sampan-init" in session.run("host", ["cat", "/proc/1/comm"], init=True).text


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse here")
def test_devices(session: sampan.Session) -> None:
    assert session.run("host", ["test", "-c", "/dev/fuse"], devices=["/dev/fuse"]).ok
    assert not session.run("host", ["test", "-c", "/dev/fuse"]).ok


def test_sysctls(session: sampan.Session) -> None:
    result = session.run(
        "host", ["cat", "/proc/sys/kernel/msgmax"], sysctls={"kernel.msgmax": "1234"}
    )
    assert result.text == "1234\n", result


def test_the_image_is_as_it_was(session: sampan.Session) -> None:
    assert session.run("host", ["sh", "-c", "echo x > /etc/passwd; rm -rf /usr/share/perl5"]).ok
    assert session.run("host", ["head", "-c", "5", "/etc/passwd"]).text == "root:"


def test_check_raises_what_is_no_success(session: sampan.Session) -> None:
    with pytest.raises(sampan.RunFailed, match="exit code 3; it said last:\nno") as caught:
        session.run("host", ["sh", "-c", "echo no >&2; exit 3"], check=True)
    assert caught.value.result.exit_code == 3
    assert pickle.loads(pickle.dumps(caught.value)).result == caught.value.result
    with pytest.raises(sampan.RunFailed, match="exit code 143"):
        session.run("host", ["sh", "-c", "kill -TERM $$; sleep 9"], check=True, init=True)
    assert session.run("host", ["true"], check=True).ok


def test_results_are_values(session: sampan.Session) -> None:
    result = session.run("host", ["echo", "x"])
    with pytest.raises(AttributeError):
        result.exit_code = 1  # type: ignore[misc]  # that is what is tested
    assert pickle.loads(pickle.dumps(result)) == result


def test_the_default_command_is_the_images(session: sampan.Session) -> None:
    assert session.run("host", input="echo from a shell").text == "from a shell\n"


def test_an_entrypoint(session: sampan.Session) -> None:
    assert session.run("host", ["x"], entrypoint=["echo", "-n"]).text == "x"


def test_a_request_larger_than_a_packet(session: sampan.Session) -> None:
    env = {f"V{number}": "ü" * 1000 for number in range(60)}
    code = "import os, sys; print(sum(len(v) for k, v in os.environ.items() if k[0] == 'V'))"
    result = session.run("host", ["python3", "-c", code, "x" * 100_000], env=env, input="y")
    assert result.text == "60000\n"


def test_words_that_are_no_text(session: sampan.Session, tmp_path: Path) -> None:
    code = "import os, sys; print([os.fsencode(word) for word in sys.argv[1:]])"
    name = os.fsdecode(b"/\xff")
    result = session.run("host", ["python3", "-c", code, name, tmp_path, ""])
    assert result.text == f"[b'/\\xff', {os.fsencode(tmp_path)!r}, b'']\n"
    for word in ("a\0b", b"bytes", 3, None):
        with pytest.raises(sampan.InvalidArgument):
            session.run("host", ["echo", word])  # type: ignore[list-item]  # that is what is wrong


BAD: list[tuple[dict[str, Any], str]] = [
    ({"memory": "lots"}, "memory 'lots': expected bytes"),
    ({"memory": -1}, "memory -1"),
    ({"memory": True}, "memory True"),
    ({"memory": "1k"}, "Minimum memory limit"),
    ({"cpus": "2"}, "cpus '2': expected a number"),
    ({"cpus": 1000.0}, "as there are only"),
    ({"pids": -5}, "PidsLimit -5"),
    ({"timeout": 0}, "timeout 0: expected seconds"),
    ({"timeout": float("inf")}, "timeout inf"),
    ({"timeout": "5"}, "timeout '5'"),
    ({"output_limit": "x"}, "output_limit"),
    ({"network": "bridge0"}, "network bridge0 is not supported"),
    ({"env": {"A": 1}}, "env A: expected text, not int"),
    ({"env": {"A=B": "1"}}, "not a variable's name"),
    ({"env": ["A=1"]}, "env: expected a mapping"),
    ({"files": {"relative": b""}}, "files 'relative': expected an absolute path"),
    ({"files": {"/": b""}}, "the root file system itself"),
    ({"files": {"/a": 5}}, "files /a: expected bytes"),
    ({"files": {"/a": Path("/nowhere/at/all")}}, "files /a: /nowhere/at/all: No such file"),
    ({"files": {"/t/a": b""}, "mounts": [sampan.Tmpfs("/t")]}, "below the mount at /t"),
    ({"collect": ["/t"], "mounts": [sampan.Tmpfs("/t/")]}, "below the mount at /t"),
    ({"collect": ["x"]}, "collect 'x'"),
    ({"mounts": ["/a:/b"]}, "mounts: expected Bind or Tmpfs, not str"),
    ({"mounts": [sampan.Bind("/nowhere/at/all", "/x")]}, "bind source path does not exist"),
    ({"mounts": [sampan.Bind("/tmp", "relative")]}, "expected an absolute path"),
    ({"mounts": [sampan.Tmpfs("/a"), sampan.Tmpfs("/a/")]}, "Duplicate mount point"),
    ({"seccomp": "no json"}, "seccomp profile"),
    ({"cap_add": ["NONSENSE"]}, "unknown capability"),
    ({"ulimits": {"files": 5}}, "invalid ulimit type"),
    ({"user": "nobody-at-all"}, "nobody-at-all"),
    ({"workdir": "relative"}, "relative"),
    ({"devices": ["/etc/passwd"]}, "not a device node"),
    ({"sysctls": {"kernel.hostname": "x"}}, "kernel.hostname"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_wrong_is_named_and_nothing_is_left(
    session: sampan.Session, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(sampan.SampanError) as caught:
        session.run("host", ["true"], **options)
    assert message.lower() in str(caught.value).lower()


def test_a_keyword_nobody_knows(session: sampan.Session) -> None:
    options: dict[str, Any] = {"memroy": "1g"}
    with pytest.raises(TypeError, match="no keyword argument 'memroy'"):
        session.run("host", ["true"], **options)


def test_a_shells_line_is_not_a_list(session: sampan.Session) -> None:
    with pytest.raises(sampan.InvalidArgument, match='"sh", "-c"'):
        session.run("host", "echo x")


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["no-such-command"], sampan.CommandNotFound),
        (["/no/such"], sampan.CommandNotFound),
        (["/etc/passwd"], sampan.CommandNotExecutable),
    ],
)
def test_a_command_that_is_not_there(
    session: sampan.Session, command: list[str], kind: type[sampan.SampanError]
) -> None:
    with pytest.raises(kind):
        session.run("host", command)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("1", 1),
        ("1k", 1024),
        ("1.5K", 1536),
        ("2 mb", 2 << 20),
        ("3GiB", 3 << 30),
        (7, 7),
    ],
)
def test_sizes(text: str | int, number: int) -> None:
    assert size(text, "x") == number
