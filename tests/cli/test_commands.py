"""Every command of ``sampan`` against a real daemon: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Sampan
from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root

RUN = ("run", "--rm", "--network", "none")


@pytest.fixture
def sleeper(sampan: Sampan) -> str:
    name = f"sleeper-{time.monotonic_ns()}"
    sampan("run", "-d", "--name", name, "--network", "none", "host", "sleep", "600", check=True)
    return name


@pytest.fixture(autouse=True)
def no_containers_after(sampan: Sampan) -> object:
    yield
    names = sampan("ps", "-aq").stdout.split()
    if names:
        sampan("rm", "-f", *names, check=True)


def test_run_prints_and_ends_as_its_command_does(sampan: Sampan) -> None:
    done = sampan(*RUN, "host", "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")


def test_run_hands_standard_input_on_to_its_end(sampan: Sampan) -> None:
    text = "line\n" * 40_000
    assert sampan(*RUN, "-i", "host", "cat", stdin=text).stdout == text


@pytest.mark.parametrize(("command", "status"), [("nosuch", 127), ("/etc", 126)])
def test_a_command_that_cannot_run_is_named(sampan: Sampan, command: str, status: int) -> None:
    done = sampan(*RUN, "host", command)
    assert done.returncode == status and command in done.stderr
    assert sampan("ps", "-aq").stdout == ""


def test_a_missing_image_is_named(sampan: Sampan) -> None:
    done = sampan(*RUN, "no-such-image", "true")
    assert done.returncode == 125 and "no-such-image" in done.stderr


def test_a_missing_bind_source_is_named(sampan: Sampan) -> None:
    done = sampan(*RUN, "--mount", "type=bind,src=/no/such/dir,dst=/x", "host", "true")
    assert done.returncode == 125 and "/no/such/dir" in done.stderr


def test_run_options_reach_the_container(sampan: Sampan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from outside")
    script = (
        'id -u; pwd; echo "$A"; hostname; cat /in/file; touch /no 2>/dev/null || echo ro; '
        "touch /t/x && echo tmpfs; ulimit -n; grep -c . /proc/net/dev"
    )
    done = sampan(
        *RUN,
        *("-u", "0", "-w", "/usr", "-e", "A=b c", "--hostname", "boxy", "-v", f"{tmp_path}:/in:ro"),
        *("--read-only", "--tmpfs", "/t:size=1m", "--ulimit", "nofile=77:88"),
        *("host", "sh", "-c", script),
    )
    lines = done.stdout.splitlines()
    assert lines[:4] == ["0", "/usr", "b c", "boxy"]
    assert lines[4:] == ["from outsidero", "tmpfs", "77", "3"]


def test_an_init_reaps_and_hands_signals_on(sampan: Sampan, sleeper: str) -> None:
    done = sampan(*RUN, "--init", "host", "sh", "-c", "echo $$; exit 9")
    assert done.returncode == 9 and done.stdout.strip() != "1"


def test_entrypoint_and_its_arguments(sampan: Sampan) -> None:
    done = sampan(*RUN, "--entrypoint", "/bin/echo", "host", "a", "b")
    assert done.stdout == "a b\n"


def test_capabilities_are_dropped_and_added(sampan: Sampan) -> None:
    def effective(*flags: str) -> int:
        done = sampan(*RUN, *flags, "host", "grep", "CapEff", "/proc/self/status", check=True)
        return int(done.stdout.split()[1], 16)

    assert effective("--cap-drop", "ALL") == 0
    assert effective("--cap-drop", "ALL", "--cap-add", "NET_ADMIN") == 1 << 12
    assert effective().bit_count() == 14


def test_create_start_wait_logs_and_remove(sampan: Sampan) -> None:
    made = sampan(
        "create",
        "--name",
        "steps",
        "--network",
        "none",
        "host",
        "sh",
        "-c",
        "echo 1; exit 4",
        check=True,
    )
    identity = made.stdout.strip()
    assert re.fullmatch("[0-9a-f]{64}", identity)
    assert sampan("start", "steps", check=True).stdout == "steps\n"
    assert sampan("wait", "steps", check=True).stdout == "4\n"
    assert sampan("logs", "steps", check=True).stdout == "1\n"
    row = sampan("ps", "-a", "--format", "{{.Names}} {{.Status}}", check=True).stdout
    assert re.fullmatch(r"steps Exited \(4\) .* ago\n", row)
    assert sampan("rm", "steps", check=True).stdout == "steps\n"
    assert sampan("rm", "steps").returncode == 1


def test_start_attached_returns_the_exit_status(sampan: Sampan) -> None:
    sampan("create", "--name", "again", "--network", "none", "host", "sh", "-c", "echo x; exit 6")
    done = sampan("start", "-a", "again")
    assert (done.returncode, done.stdout) == (6, "x\n")


def test_exec_runs_beside_and_tells_its_own_status(sampan: Sampan, sleeper: str) -> None:
    done = sampan("exec", "-e", "V=1", "-w", "/tmp", sleeper, "sh", "-c", "echo $V; pwd; exit 3")
    assert (done.returncode, done.stdout) == (3, "1\n/tmp\n")
    assert sampan("exec", "-i", sleeper, "cat", stdin="abc").stdout == "abc"
    assert sampan("exec", sleeper, "nosuch").returncode == 127
    assert sampan("exec", "nosuchcontainer", "true").returncode != 0


def test_pause_stops_time_for_a_container(sampan: Sampan, sleeper: str) -> None:
    assert sampan("pause", sleeper, check=True).stdout == f"{sleeper}\n"
    assert "(Paused)" in sampan("ps", "--format", "{{.Status}}").stdout
    assert sampan("exec", sleeper, "true").returncode != 0
    sampan("unpause", sleeper, check=True)
    assert sampan("exec", sleeper, "true").returncode == 0


def test_stop_and_kill(sampan: Sampan, sleeper: str) -> None:
    begin = time.monotonic()
    sampan("stop", "-t", "1", sleeper, check=True)
    assert time.monotonic() - begin < 20
    state = sampan("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", sleeper).stdout
    assert state == "exited 137\n"  # sleep is PID 1: SIGTERM has no effect on it
    assert sampan("kill", sleeper).returncode == 1
    sampan("start", sleeper, check=True)
    sampan("kill", sleeper, check=True)
    assert sampan("wait", sleeper).stdout == "137\n"


def test_inspect_shows_containers_and_images(sampan: Sampan, sleeper: str) -> None:
    (details,) = json.loads(sampan("inspect", sleeper, check=True).stdout)
    assert details["Name"] == f"/{sleeper}" and details["State"]["Running"] is True
    (image,) = json.loads(sampan("inspect", "host", check=True).stdout)
    assert "host:latest" in image["RepoTags"]
    done = sampan("inspect", "nothing-of-this-name")
    assert done.returncode == 1 and "nothing-of-this-name" in done.stderr


def test_a_name_in_use_is_refused(sampan: Sampan, sleeper: str) -> None:
    done = sampan("create", "--name", sleeper, "--network", "none", "host", "true")
    assert done.returncode == 1 and "already in use" in done.stderr


def test_import_save_load_tag_and_remove(sampan: Sampan, tmp_path: Path) -> None:
    root = tmp_path / "root.tar"
    with tarfile.open(root, "w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        link = tarfile.TarInfo("bin/echo")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
    sampan("import", "-c", 'CMD ["/bin/echo", "own"]', str(root), "mine:1", check=True)
    assert sampan(*RUN, "mine:1", check=True).stdout == "own\n"
    assert "mine         1" in sampan("images", check=True).stdout.replace("  ", "  ")
    sampan("tag", "mine:1", "other:2", check=True)
    archive = tmp_path / "saved.tar"
    sampan("save", "-o", str(archive), "mine:1", check=True)
    removed = sampan("rmi", "mine:1", "other:2", check=True).stdout
    assert "Untagged: mine:1" in removed and "Deleted: sha256:" in removed
    assert sampan(*RUN, "mine:1").returncode == 125
    assert "mine:1" in sampan("load", "-i", str(archive), check=True).stdout
    assert sampan(*RUN, "mine:1", check=True).stdout == "own\n"
    assert "import" in sampan("history", "mine:1", check=True).stdout.lower()
    sampan("rmi", "mine:1", check=True)


@pytest.mark.peer
def test_a_layout_made_by_skopeo_is_loaded_from_its_directory(
    sampan: Sampan, tmp_path: Path
) -> None:
    root = tmp_path / "root.tar"
    with tarfile.open(root, "w") as tar:
        tar.add("/bin/busybox", "bin/echo")
    sampan("import", str(root), "start:1", check=True)
    archive, layout = tmp_path / "saved.tar", tmp_path / "layout"
    sampan("save", "-o", str(archive), "start:1", check=True)
    sampan("rmi", "start:1", check=True)
    command = ["skopeo", "copy", f"docker-archive:{archive}", f"oci:{layout}:copied:2"]
    subprocess.run(command, check=True, capture_output=True)
    assert "copied:2" in sampan("load", "-i", str(layout), check=True).stdout
    assert sampan(*RUN, "copied:2", "/bin/echo", "x", check=True).stdout == "x\n"
    sampan("rmi", "copied:2", check=True)
    done = sampan("load", "-i", str(tmp_path))
    assert done.returncode == 1 and str(tmp_path) in done.stderr


def test_an_archive_cut_short_is_refused(sampan: Sampan, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"not an archive" * 100)
    done = sampan("load", "-i", str(bad))
    assert done.returncode == 1 and done.stderr.startswith("Error response from daemon: ")
    assert sampan("images", "-q", check=True).stdout.count("\n") == 1


def test_logs_can_be_cut_and_stamped(sampan: Sampan) -> None:
    sampan("run", "--name", "talker", "--network", "none", "host", "seq", "5", check=True)
    assert sampan("logs", "-n", "2", "talker").stdout == "4\n5\n"
    stamped = sampan("logs", "-t", "-n", "1", "talker").stdout
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z 5\n", stamped)


def test_logs_follow_to_the_end(sampan: Sampan) -> None:
    sampan(
        "run",
        "-d",
        "--name",
        "slow",
        "--network",
        "none",
        "host",
        "sh",
        "-c",
        "echo a; sleep 0.3; echo b",
        check=True,
    )
    assert sampan("logs", "-f", "slow").stdout == "a\nb\n"


def test_signals_reach_the_container(daemon: Daemon) -> None:
    script = "trap 'echo got; exit 8' TERM; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [sys.executable, "-m", "sampan.cli", "-H", daemon.host, *RUN, "host", "sh", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == "got\n"
    assert process.wait(60) == 8


def test_a_terminal_is_one_and_can_be_left(daemon: Daemon, tmp_path: Path) -> None:
    line = f"{sys.executable} -m sampan.cli -H {daemon.host} run --rm -it --network none host tty"
    done = subprocess.run(
        ["script", "-qec", line, "/dev/null"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert "/dev/pts/" in done.stdout, done.stdout


def test_version_and_info(sampan: Sampan) -> None:
    assert (
        json.loads(sampan("version", "--format", "json").stdout)["Server"]["ApiVersion"] == "1.51"
    )
    assert sampan("info", "-f", "{{.Driver}}", check=True).stdout == "overlay2\n"


def test_no_daemon_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sampan.cli", "-H", f"unix://{tmp_path}/none", "ps"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"{tmp_path}/none" in done.stderr and "sampan" in done.stderr


def test_a_client_without_a_daemon_starts_one_and_says_so() -> None:
    if os.path.exists("/run/sampan/sampan.sock"):
        pytest.skip("a daemon of this machine's own is running")
    done = subprocess.run(
        [sys.executable, "-m", "sampan.cli", *RUN, "host", "echo", "made"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    try:
        assert (done.returncode, done.stdout) == (0, "made\n"), done.stderr
        found = re.search(r"started one \(pid (\d+)", done.stderr)
        assert found
    finally:
        found = re.search(r"started one \(pid (\d+)", done.stderr)
        if found:
            pidfd = os.pidfd_open(int(found[1]))
            os.kill(int(found[1]), signal.SIGTERM)
            import select

            assert select.select([pidfd], [], [], 20)[0]
            os.close(pidfd)
