"""``docker run`` by the real client, whole: what comes out, and which exit code."""

from __future__ import annotations

import subprocess

import pytest

from tests.daemon_fixture import DOCKER, OLD_DOCKER, Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.peer,
    pytest.mark.skipif(not DOCKER, reason="needs the docker client"),
]

RUN = ("run", "--rm", "--network", "none")


def test_output_comes_out_and_nothing_stays(daemon: Daemon) -> None:
    done = daemon.docker(*RUN, "host", "echo", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")
    assert daemon.get("/containers/json", all=1).json() == []


def test_both_streams_stay_apart(daemon: Daemon) -> None:
    done = daemon.docker(*RUN, "host", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_the_exit_code_is_the_commands(daemon: Daemon) -> None:
    assert daemon.docker(*RUN, "host", "sh", "-c", "exit 7").returncode == 7


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [("no-such-command", 127, "executable file not found"), ("/etc/passwd", 126, "permission")],
)
def test_a_command_that_cannot_run_says_why(
    daemon: Daemon, command: str, code: int, words: str
) -> None:
    done = daemon.docker(*RUN, "host", command)
    assert done.returncode == code
    assert command in done.stderr
    assert words in done.stderr
    assert daemon.get("/containers/json", all=1).json() == []


def test_standard_input_reaches_its_end_and_the_output_after_it(daemon: Daemon) -> None:
    done = daemon.docker(*RUN, "-i", "host", "sh", "-c", "cat; echo end", stdin=b"x\n" * 50_000)
    assert done.stdout == "x\n" * 50_000 + "end\n"


def test_without_a_network_option_it_runs_on_the_default_network(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "host", "cat", "/proc/net/dev")
    assert (done.returncode, done.stderr) == (0, "")
    assert "eth0" in done.stdout


def test_a_network_that_is_not_there_is_told_at_the_start(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "--network", "mine", "host", "true")
    assert done.returncode == 125
    assert "network mine not found" in done.stderr


def test_an_image_that_nobody_has_is_said_with_whom_was_asked(daemon: Daemon) -> None:
    done = daemon.docker(*RUN, "127.0.0.1:1/nosuch:1", "true")
    assert done.returncode == 125
    assert "http://127.0.0.1:1" in done.stderr


def test_a_name_in_use_names_its_holder(daemon: Daemon) -> None:
    container = daemon.create("true", name="taken")
    done = daemon.docker(*RUN, "--name", "taken", "host", "true")
    assert done.returncode == 125
    assert f'"/taken" is already in use by container "{container}"' in done.stderr
    daemon.delete("/containers/taken")


def test_a_terminal_is_one(daemon: Daemon) -> None:
    # script(1) gives the client a terminal of its own.
    line = f"{DOCKER} -H {daemon.host} run --rm -it --network none host tty"
    done = subprocess.run(
        ["script", "-qec", line, "/dev/null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"/dev/pts/0" in done.stdout or b"/dev/console" in done.stdout


@pytest.mark.parametrize(
    ("options", "command", "expected"),
    [
        (("-e", "A=b c"), "echo $A", "b c\n"),
        (("-w", "/usr/share"), "pwd", "/usr/share\n"),
        (("-u", "1000:1001"), "id -u; id -g", "1000\n1001\n"),
        (("-u", "nobody"), "id -un", "nobody\n"),
        (("--hostname", "boat"), "hostname; cat /etc/hostname", "boat\nboat\n"),
        (("--read-only",), "touch /x 2>/dev/null || echo refused", "refused\n"),
        (("--read-only", "--tmpfs", "/x:size=1m"), "touch /x/y && echo done", "done\n"),
        (("--ulimit", "nofile=100:200"), "ulimit -Sn; ulimit -Hn", "100\n200\n"),
        ((), "ulimit -Sn", "1024\n"),
        (("--group-add", "4242"), "id -G", "0 4242\n"),
        ((), "id -G", "0\n"),
        ((), "test -f /.dockerenv && ! test -s /.dockerenv && echo in", "in\n"),
        (("--cap-drop", "ALL"), "grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"),
        ((), "readlink /etc/mtab; grep -c ' / ' /etc/mtab", "/proc/mounts\n1\n"),
        (("--read-only",), "readlink /etc/mtab", "/proc/mounts\n"),
        (("--shm-size", "1m"), "df -k /dev/shm | awk 'END{print $2}'", "1024\n"),
        (("--add-host", "a.b:10.0.0.1"), "grep a.b /etc/hosts", "10.0.0.1\ta.b\n"),
        (("--dns", "10.0.0.2"), "grep nameserver /etc/resolv.conf", "nameserver 10.0.0.2\n"),
        (("--dns-search", "a.b"), "grep search /etc/resolv.conf", "search a.b\n"),
        (("--dns-option", "ndots:3"), "grep options /etc/resolv.conf", "options ndots:3\n"),
        (("--sysctl", "kernel.msgmax=4242"), "cat /proc/sys/kernel/msgmax", "4242\n"),
        (("--init",), "cat /proc/1/comm; tr '\\0' '\\n' < /proc/1/cmdline", "sampan-init\n" * 2),
        (("--oom-score-adj", "500"), "cat /proc/self/oom_score_adj", "500\n"),
        (
            ("--security-opt", "no-new-privileges"),
            "grep NoNewP /proc/self/status",
            "NoNewPrivs:\t1\n",
        ),
        (
            ("--security-opt", "seccomp=unconfined"),
            "grep Seccomp: /proc/self/status",
            "Seccomp:\t0\n",
        ),
        ((), "grep Seccomp: /proc/self/status", "Seccomp:\t2\n"),
        (("--privileged",), "test -e /dev/vda -o -e /dev/sda -o -e /dev/loop0; echo $?", "0\n"),
        (("--entrypoint", "echo"), None, "-c arg\n"),
        (("--device", "/dev/full:/dev/plein"), "test -c /dev/plein && echo yes", "yes\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_have_their_effect(
    daemon: Daemon, options: tuple[str, ...], command: str | None, expected: str
) -> None:
    given = ("sh", "-c", command) if command is not None else ("-c", "arg")
    done = daemon.docker(*RUN, *options, "host", *given)
    assert (done.stdout, done.stderr) == (expected, "")


def test_the_older_client_runs_containers_too(daemon: Daemon) -> None:
    done = daemon.docker(*RUN, "-i", "host", "cat", stdin=b"old\n", program=OLD_DOCKER)
    assert (done.returncode, done.stdout, done.stderr) == (0, "old\n", "")
