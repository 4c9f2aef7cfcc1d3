"""The engines a benchmark runs: ours and those installed, each in a directory of its own.

Every engine gets the same root file system (busybox) and is started and stopped here, by its own
process ID. What is not installed is left out and said.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.namespaces import Namespace
from sampan.kernel.mounts import MNT_DETACH, MS_PRIVATE, MS_REC, mount, umount
from sampan.kernel.namespaces import CLONE_NEWNS, unshare

__all__ = ["busybox_root", "dockerd", "private_mounts", "root_tar", "sampan_daemon", "workspace"]

SAMPAN = Path(sys.executable).with_name("sampan")
_DEADLINE = 120.0


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A directory for one run, removed at its end without crossing a mount."""
    path = Path(tempfile.mkdtemp(prefix="sampan-bench-", dir="/var/tmp"))
    try:
        yield path
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=False)


def private_mounts() -> None:
    """A mount namespace of this process's own, without the v2 half of hybrid cgroups.

    crun 1.8 refuses hybrid cgroups; the others do not care.
    """
    unshare(CLONE_NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    if os.path.ismount("/sys/fs/cgroup/unified"):
        umount("/sys/fs/cgroup/unified", MNT_DETACH)
    _private.append(True)


_private: list[bool] = []


def _exec_root(home: Path) -> Path:
    """An engine's exec root; on a tmpfs, as /run is on most machines, where mounts are our own."""
    path = home / "exec"
    path.mkdir()
    if _private:
        mount("tmpfs", str(path), "tmpfs")
    return path


def busybox_root(place: Path) -> Path:
    """A root file system of one static binary and a link for each of its commands."""
    root = place / "rootfs"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    listed = subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True)
    for name in listed.stdout.split():
        link = root / "bin" / name
        if not link.exists():
            link.symlink_to("busybox")
    return root


def root_tar(root: Path, place: Path) -> Path:
    """The root file system as a tar."""
    tar = place / "root.tar"
    subprocess.run(["tar", "-C", str(root), "-cf", str(tar), "."], check=True)
    return tar


def bundle(root: Path, place: Path, command: list[str]) -> Path:
    """An OCI bundle as ``runc spec`` makes it, without a terminal, around ``command``."""
    directory = place / "bundle"
    directory.mkdir()
    subprocess.run(["runc", "spec"], cwd=directory, check=True)
    config = json.loads((directory / "config.json").read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = command
    config["process"].pop("rlimits", None)
    config["root"]["path"] = str(root)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _wait_for_socket(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(path))
                return
            except (FileNotFoundError, ConnectionRefusedError):
                if process.poll() is not None:
                    break
        time.sleep(0.02)
    raise SystemExit(f"{process.args!r} did not answer:\n{log.read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def dockerd(place: Path, machine: Namespace | None = None) -> Iterator[str | None]:
    """Debian's dockerd beside anything else; yields its DOCKER_HOST, or None if not installed.

    It has a default bridge and rules only with a network namespace of its own, ``machine``: this
    machine's are left as they are.
    """
    if shutil.which("dockerd") is None:
        yield None
        return
    home = place / "dockerd"
    home.mkdir()
    path, log = home / "docker.sock", home / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(machine.enter if machine else ()),
                "dockerd",
                f"--data-root={home}/data",
                f"--exec-root={_exec_root(home)}",
                f"--pidfile={home}/pid",
                f"--host=unix://{path}",
                *(() if machine else ("--bridge=none", "--iptables=false", "--ip6tables=false")),
            ],
            stdout=out,
            stderr=out,
        )
    try:
        _wait_for_socket(path, process, log)
        yield f"unix://{path}"
    finally:
        _stop(process)
        _unmount_below(home)


@contextlib.contextmanager
def sampan_daemon(place: Path, machine: Namespace | None = None) -> Iterator[tuple[str, int]]:
    """Our daemon, in ``machine`` if there is one; yields its host and its process ID."""
    home = place / "sampan"
    home.mkdir()
    path, log = home / "sampan.sock", home / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(machine.enter if machine else ()),
                str(SAMPAN),
                "daemon",
                f"--data-root={home}/data",
                f"--exec-root={_exec_root(home)}",
                f"--pidfile={home}/pid",
                f"--host=unix://{path}",
                f"--cgroup-parent=/sampan-bench-{os.getpid()}",
            ],
            stdout=out,
            stderr=out,
        )
    try:
        _wait_for_socket(path, process, log)
        yield f"unix://{path}", process.pid
    finally:
        _stop(process)
        _unmount_below(home)


def _unmount_below(home: Path) -> None:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        places = [line.split()[4] for line in file]
    for place in reversed(places):
        if place.startswith(str(home)):
            umount(place, MNT_DETACH)
