"""Programs nobody here wrote drive the command: Debian's podman and dockerd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sampan.kernel.cgroups import detect
from tests.runtime.command.runtime import COMMAND, FOREVER, make_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.peer]

LOOP = FOREVER[-1]


def wrapper(directory: Path) -> Path:
    """The command as one executable file, as these programs want it."""
    path = directory / "sampan-runtime"
    path.write_text(f"#!{sys.executable} -IS\n{COMMAND[-1].replace('; ', chr(10))}\n")
    path.chmod(0o755)
    return path


class Peer:
    """A program with its fixed options."""

    def __init__(self, *words: str, **environment: str) -> None:
        self.words = words
        self.environment = {**os.environ, **environment}

    def run(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            [*self.words, *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
        )
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "image") / "rootfs"


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Peer]:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    run = Path(f"/run/sampan-test-podman-{os.getpid()}")  # at most 50 characters, it says
    run.mkdir()
    peer = Peer(
        "podman",
        *("--root", str(tmp_path / "storage"), "--runroot", str(run)),
        *("--tmpdir", str(tmp_path / "tmp"), "--storage-driver", "vfs"),
        *("--runtime", str(wrapper(tmp_path)), "--cgroup-manager", "cgroupfs"),
    )
    try:
        yield peer
    finally:
        peer.run("rm", "--all", "--force", "--time", "0")
        shutil.rmtree(run)
        detect().group(f"/sampan-test-podman-{os.getpid()}").destroy()


def options(image: Path) -> tuple[str, ...]:
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
    parent = ("--cgroup-parent", f"/sampan-test-podman-{os.getpid()}")
    return (*limits, *parent, "--network", "none", "--rootfs", str(image))


def test_podman_runs_execs_pauses_stops_and_removes(podman: Peer, image: Path) -> None:
    out = podman.run("run", "--rm", *options(image), "/bin/sh", "-c", "echo hi; exit 4", status=4)
    assert out == "hi\n"
    podman.run("run", "--rm", *options(image), "/nosuch", status=127)
    podman.run("run", "--rm", *options(image), "/etc", status=126)
    podman.run("run", "-d", "--name", "one", *options(image), "/bin/sh", "-c", LOOP)
    assert podman.run("exec", "one", "/bin/sh", "-c", "echo in; exit 5", status=5) == "in\n"
    podman.run("exec", "one", "/nosuch", status=127)
    podman.run("pause", "one")
    assert "paused" in podman.run("inspect", "--format", "{{.State.Status}}", "one")
    podman.run("unpause", "one")
    podman.run("stop", "--time", "10", "one")
    assert podman.run("inspect", "--format", "{{.State.ExitCode}}", "one") == "3\n"
    podman.run("rm", "one")


def test_podman_with_a_terminal(podman: Peer, image: Path) -> None:
    out = podman.run("run", "--rm", "-t", *options(image), "/bin/sh", "-c", "tty")
    assert out.strip() == "/dev/pts/0"


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Peer]:
    if shutil.which("dockerd") is None or shutil.which("docker") is None:
        pytest.skip("dockerd is not installed")
    host = f"unix://{tmp_path}/docker.sock"
    with open(tmp_path / "log", "wb") as log:
        daemon = subprocess.Popen(
            [
                "dockerd",
                *("--add-runtime", f"sampan={wrapper(tmp_path)}"),
                *("--data-root", str(tmp_path / "data"), "--exec-root", str(tmp_path / "exec")),
                *("--host", host, "--pidfile", str(tmp_path / "pid")),
                *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
                *("--cgroup-parent", f"/sampan-test-docker-{os.getpid()}"),
                *("--storage-driver", "vfs"),
            ],
            stdout=log,
            stderr=log,
        )
    peer = Peer("docker", DOCKER_HOST=host)
    try:
        deadline = time.monotonic() + 30
        while subprocess.run(
            ["docker", "version"], check=False, capture_output=True, env=peer.environment
        ).returncode:
            assert daemon.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield peer
        if left := peer.run("ps", "-aq").split():
            peer.run("rm", "--force", *left)
    finally:
        daemon.terminate()
        daemon.wait(60)
        detect().group(f"/sampan-test-docker-{os.getpid()}").destroy()


def test_dockerd_runs_execs_updates_stops_and_removes(docker: Peer, image: Path) -> None:
    archive = image.parent / "image.tar"
    subprocess.run(["tar", "-C", str(image), "-cf", str(archive), "."], check=True)
    docker.run("import", str(archive), "image")
    given = ("--runtime", "sampan", "--network", "none")
    out = docker.run("run", "--rm", *given, "image", "sh", "-c", "echo hi; exit 4", status=4)
    assert out == "hi\n"
    assert "/nosuch" in docker.run("run", "--rm", *given, "image", "/nosuch", status=127)
    docker.run("run", "--rm", *given, "image", "/etc", status=126)
    docker.run("run", "-d", "--name", "one", *given, "-m", "64m", "image", "sh", "-c", LOOP)
    assert docker.run("exec", "one", "sh", "-c", "echo in; exit 5", status=5) == "in\n"
    assert "trap" in docker.run("top", "one")
    docker.run("pause", "one")
    assert "Paused" in docker.run("ps")
    docker.run("unpause", "one")
    docker.run("update", "--memory", "96m", "--memory-swap", "96m", "one")
    assert "96MiB" in docker.run("stats", "--no-stream", "one")
    docker.run("stop", "one")
    assert docker.run("inspect", "--format", "{{.State.ExitCode}}", "one") == "3\n"
    docker.run("rm", "one")
    volume = image.parent / "volume"
    volume.mkdir()
    out = docker.run(
        *("run", "--rm", *given, "--read-only", "--tmpfs", "/run", "-v", f"{volume}:/v", "image"),
        *("sh", "-c", "echo kept >/v/file && echo x >/run/y && ! echo z >/z"),
    )
    assert "Read-only file system" in out
    assert (volume / "file").read_text() == "kept\n"
    oom = (
        "-m",
        "20m",
        "--memory-swap",
        "20m",
        "image",
        "sh",
        "-c",
        "x=a; while :; do x=$x$x; done",
    )
    docker.run("run", "--name", "oom", *given, *oom, status=137)
    assert docker.run("inspect", "--format", "{{.State.OOMKilled}}", "oom") == "true\n"
    docker.run("run", "--rm", *given, "--privileged", "image", "sh", "-c", "ls /dev")
