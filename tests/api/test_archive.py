"""``docker cp`` both ways, and what it stands on: the archive of a path of a container."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import docker
import pytest

from sampan.api.docker.archive import go_mode
from tests.api.busybox import tar_of
from tests.api.copying import get, image, members, put, sleeping, stat_of, stopped
from tests.daemon_fixture import Daemon

__all__ = ["image"]

pytestmark = pytest.mark.root


def test_the_stat_of_a_path(daemon: Daemon) -> None:
    container = sleeping(daemon)
    for path, name, size, mode, target in (
        ("/data/file", "file", 6, 0o755, ""),
        ("/tmp/abs", "abs", 10, 1 << 27 | 0o777, "/data/file"),
        ("/data/.", ".", None, 1 << 31 | 0o755, ""),
        ("/", "/", None, 1 << 31 | 0o755, ""),
    ):
        url = f"/containers/{container}/archive"
        answer = daemon.request("HEAD", url, query={"path": path})
        assert (answer.status, answer.body) == (200, b"")
        found = stat_of(answer)
        assert (found["name"], found["mode"], found["linkTarget"]) == (name, mode, target)
        assert size is None or found["size"] == size
    assert stat_of(get(daemon, container, "/data/file"))["mtime"] == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        (0o100644, 0o644), (0o104755, 1 << 23 | 0o755), (0o102755, 1 << 22 | 0o755),
        (0o041777, 1 << 31 | 1 << 20 | 0o777), (0o020666, 1 << 26 | 1 << 21 | 0o666),
        (0o060660, 1 << 26 | 0o660), (0o010600, 1 << 25 | 0o600), (0o140755, 1 << 24 | 0o755),
    ],
)  # fmt: skip
def test_modes_are_gos(mode: int, shown: int) -> None:
    assert go_mode(mode) == shown


@pytest.mark.parametrize("state", ["running", "paused", "exited", "created"])
def test_files_go_both_ways_whatever_the_containers_state(daemon: Daemon, state: str) -> None:
    if state == "created":
        container = daemon.create("cat", "/new/f", Image="cp:1")
    else:
        container = stopped(daemon) if state == "exited" else sleeping(daemon)
    if state == "paused":
        daemon.post(f"/containers/{container}/pause")
    assert daemon.state(container)["Status"] == state
    assert members(get(daemon, container, "/data")) == {
        "data": "", "data/file": "hello\n", "data/sub": "", "data/link": "file",
    }  # fmt: skip
    assert put(daemon, container, "/", tar_of({"new": None, "new/f": b"put\n"})).status == 200
    assert members(get(daemon, container, "/new/f")) == {"f": "put\n"}
    if state == "created":
        daemon.post(f"/containers/{container}/start")
        assert daemon.wait(container) == 0
        assert daemon.logs(container) == "put\n"
    assert daemon.delete(f"/containers/{container}", force=1).status == 204


def mounts_of(daemon: Daemon, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "bind").mkdir()
    (tmp_path / "bind/file").write_text("of the machine\n")
    return {
        "Binds": [f"{tmp_path}/bind:/b", "vol:/v", "vol:/ro:ro"],
        "Tmpfs": {"/t": ""},
        "ReadonlyRootfs": True,
    }


def test_a_running_containers_mounts_are_seen_and_written_to(
    daemon: Daemon, tmp_path: Path
) -> None:
    container = daemon.run(
        "sh", "-c", "echo in >/t/file; echo in >/v/file; sleep 1000", Image="cp:1",
        HostConfig=mounts_of(daemon, tmp_path),
    )  # fmt: skip
    daemon.wait_for((daemon.data_root / "volumes/vol/_data/file").exists)
    assert members(get(daemon, container, "/b/file")) == {"file": "of the machine\n"}
    assert members(get(daemon, container, "/t/file")) == {"file": "in\n"}
    assert members(get(daemon, container, "/ro")) == {"ro": "", "ro/file": "in\n"}
    assert members(get(daemon, container, "/etc/hostname"))["hostname"] == container[:12] + "\n"
    whole = members(get(daemon, container, "/"))
    assert whole["/v/file"] == "in\n"
    assert "/proc" in whole and "/proc/1" not in whole and "/dev/null" not in whole
    data = tar_of({"put": b"x"})
    for path in ("/b", "/v", "/t"):
        assert put(daemon, container, path, data).status == 200
    assert (tmp_path / "bind/put").exists()
    for path, words in (
        ("/", "container rootfs is marked read-only"),
        ("/data", "container rootfs is marked read-only"),
        ("/ro", "mounted volume is marked read-only"),
        ("/proc", "no files can be put there"),
    ):
        answer = put(daemon, container, path, data)
        assert (answer.status, words in answer.message) == (403, True), answer.message


def test_a_stopped_containers_volumes_are_seen_and_written_to(
    daemon: Daemon, tmp_path: Path
) -> None:
    mounts = mounts_of(daemon, tmp_path)
    daemon.post("/volumes/create", {"Name": "tmp", "DriverOpts": {"type": "tmpfs", "device": "t"}})
    mounts["Binds"].append("tmp:/o")
    container = stopped(daemon, HostConfig=mounts)
    data = tar_of({"put": b"x"})
    for path in ("/b", "/v"):
        assert put(daemon, container, path, data).status == 200
    assert (tmp_path / "bind/put").exists()
    assert (daemon.data_root / "volumes/vol/_data/put").exists()
    assert members(get(daemon, container, "/ro/put")) == {"put": "x"}
    assert members(get(daemon, container, "/o")) == {"o": ""}
    assert put(daemon, container, "/data", data).status == 403
    assert put(daemon, container, "/ro", data).status == 403
    with open("/proc/self/mountinfo", encoding="ascii") as file:
        assert str(daemon.data_root) not in file.read()


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nope", 404, "Could not find the file /nope in container NAME"),
        ("/proc/cpuinfo", 404, "Could not find the file /proc/cpuinfo in container NAME"),
        ("/data/file/", 400, "not a directory"),
        ("", 400, "bad parameter: path cannot be empty"),
        ("a\0b", 400, "NUL"),
    ],
)
def test_what_is_not_there_is_said(daemon: Daemon, path: str, status: int, words: str) -> None:
    sleeping(daemon, name="looked-at")
    answer = get(daemon, "looked-at", path)
    assert answer.status == status
    assert words.replace("NAME", "looked-at") in answer.message
    url = "/containers/looked-at/archive"
    assert daemon.request("HEAD", url, query={"path": path}).status == status
    assert get(daemon, "nobody", "/").status == 404


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nope", 404, "Could not find the file /nope in container NAME"),
        ("/data/file", 400, "extraction point is not a directory"),
        ("/tmp/abs", 400, "extraction point is not a directory"),
    ],
)
def test_what_cannot_be_put_is_said(daemon: Daemon, path: str, status: int, words: str) -> None:
    sleeping(daemon, name="put-to")
    answer = put(daemon, "put-to", path, tar_of({"f": b""}))
    assert (answer.status, words.replace("NAME", "put-to") in answer.message) == (status, True)


def test_options_of_putting(daemon: Daemon) -> None:
    container = sleeping(daemon, User="me")
    data = tar_of({"owned": b"x"}, owner=(5, 6))
    script = ["stat", "-c", "%u:%g", "/tmp/owned"]

    def owner() -> str:
        return daemon.docker("exec", container, *script).stdout.strip()

    assert put(daemon, container, "/tmp", data).status == 200
    assert owner() == "5:6"
    assert put(daemon, container, "/tmp", data, copyUIDGID="true").status == 200
    assert owner() == "7:8"
    answer = put(daemon, container, "/tmp/rel", tar_of({"sub": b""}), noOverwriteDirNonDir=1)
    assert answer.status == 400
    assert 'cannot overwrite directory "/tmp/rel/sub" with non-directory' in answer.message


def test_the_real_client_copies(daemon: Daemon, tmp_path: Path) -> None:
    container = sleeping(daemon, name="real")
    host = tmp_path / "host"
    (host / "dir/deep").mkdir(parents=True)
    (host / "dir/deep/file").write_text("deep\n")
    (host / "one").write_text("one\n")
    (host / "one").chmod(0o640)

    def cp(*words: str) -> subprocess.CompletedProcess[str]:
        return daemon.docker("cp", *words)

    for words, shown in (
        ((f"{host}/one", "real:/tmp"), "/tmp/one"),
        ((f"{host}/one", "real:/tmp/renamed"), "/tmp/renamed"),
        ((f"{host}/dir", "real:/tmp"), "/tmp/dir/deep/file"),
        ((f"{host}/dir", "real:/tmp/other"), "/tmp/other/deep/file"),
        ((f"{host}/dir/.", "real:/tmp"), "/tmp/deep/file"),
        (("-L", f"{host}/one", "real:/tmp/rel"), "/data/one"),
        (("-a", f"{host}/one", "real:/tmp/archived"), "/tmp/archived"),
    ):
        done = cp(*words)
        assert done.returncode == 0, done.stderr
        text = daemon.docker("exec", "real", "cat", shown).stdout
        assert text == ("deep\n" if "deep" in shown else "one\n")
    out = tmp_path / "out"
    out.mkdir()
    for words, path in (
        (("real:/data/file", f"{out}"), "file"),
        (("real:/data", f"{out}/renamed"), "renamed/file"),
        (("real:/data/.", f"{out}/inside"), "inside/file"),
        (("-L", "real:/tmp/abs", f"{out}/followed"), "followed"),
        (("-L", "real:/tmp/rel", f"{out}"), "rel/file"),
    ):
        (out / "inside").mkdir(exist_ok=True)
        done = cp(*words)
        assert done.returncode == 0, (words, done.stderr)
        assert (out / path).read_text() == "hello\n", words
    assert cp("real:/tmp/abs", f"{out}").returncode == 0
    assert os.readlink(out / "abs") == "/data/file"
    assert cp("real:/etc/hostname", str(out)).returncode == 0
    assert (out / "hostname").read_text() == container[:12] + "\n"
    failed = cp("real:/nope", str(out))
    assert (failed.returncode, "Could not find the file /nope" in failed.stderr) == (1, True)
    failed = cp(f"{host}/dir", "real:/data/file")
    assert failed.returncode == 1


def test_the_real_client_streams(daemon: Daemon) -> None:
    sleeping(daemon, name="streams")
    done = subprocess.run(
        ["docker", "cp", "-", "streams:/tmp"],
        input=tar_of({"piped": b"through\n"}),
        capture_output=True,
        check=False,
        env={"PATH": os.environ["PATH"], "DOCKER_HOST": daemon.host},
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        ["docker", "cp", "streams:/tmp/piped", "-"],
        capture_output=True,
        check=True,
        env={"PATH": os.environ["PATH"], "DOCKER_HOST": daemon.host},
    )
    listed = subprocess.run(["tar", "tvf", "-"], input=done.stdout, capture_output=True, check=True)
    assert listed.stdout.endswith(b" piped\n")


def test_docker_py(daemon: Daemon) -> None:
    container = sleeping(daemon)
    client = docker.DockerClient(base_url=daemon.host)
    try:
        one = client.containers.get(container)
        assert one.put_archive("/tmp", tar_of({"py": b"thon"}))
        chunks, found = one.get_archive("/tmp/py")
        assert (found["name"], found["size"]) == ("py", 4)
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            file = archive.extractfile("py")
            assert file is not None and file.read() == b"thon"
        with pytest.raises(docker.errors.NotFound):
            one.get_archive("/nope")
    finally:
        client.close()


def test_names_that_are_not_utf_8(daemon: Daemon) -> None:
    container = sleeping(daemon)
    name = b"/tmp/\xff\xfe".decode("utf-8", "surrogateescape")
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w", errors="surrogateescape") as out:
        out.addfile(tarfile.TarInfo(name.rpartition("/")[2]))
    assert put(daemon, container, "/tmp", buffer.getvalue()).status == 200
    answer = daemon.request("GET", f"/containers/{container}/archive?path=/tmp/%FF%FE")
    assert answer.status == 200
    assert stat_of(answer)["name"] == "\ufffd\ufffd"
    listed = subprocess.run(
        ["tar", "tf", "-", "--quoting-style=escape"], input=answer.body, capture_output=True,
        check=True,
    )  # fmt: skip
    assert listed.stdout == b"\\377\\376\n"
    assert "\ufffd\ufffd" in str(daemon.get(f"/containers/{container}/changes").json())
