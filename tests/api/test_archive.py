"""``docker cp`` both ways, and what it stands on: the archive of a path of a container."""

from __future__ import annotations

import base64
import bz2
import gzip
import http.client
import io
import json
import lzma
import os
import signal
import socket
import subprocess
import sysconfig
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from sampan.api.docker.archive import go_mode
from sampan.engine.archive import GRACE
from tests.api.busybox import import_image, tar_of
from tests.daemon_fixture import Answer, Daemon

pytestmark = pytest.mark.root

TAR = {"Content-Type": "application/x-tar"}
PASSWD = b"root:x:0:0::/:/bin/sh\nme:x:7:8::/:/bin/sh\n"


@pytest.fixture(autouse=True)
def image(daemon: Daemon) -> Iterator[None]:
    import_image(
        daemon,
        "cp:1",
        {
            "data": None, "data/file": b"hello\n", "data/sub": None, "data/link": "file",
            "etc/passwd": PASSWD, "tmp/abs": "/data/file", "tmp/rel": "../data",
        },
    )  # fmt: skip
    yield
    daemon.remove_all()
    daemon.post("/volumes/prune", filters='{"all":["true"]}')


def sleeping(daemon: Daemon, **settings: Any) -> str:
    return daemon.run("sleep", "1000", Image="cp:1", **settings)


def stopped(daemon: Daemon, **settings: Any) -> str:
    container = daemon.run("true", Image="cp:1", **settings)
    daemon.wait(container)
    return container


def get(daemon: Daemon, container: str, path: str) -> Answer:
    return daemon.request("GET", f"/containers/{container}/archive", query={"path": path})


def put(daemon: Daemon, container: str, path: str, data: bytes, **query: Any) -> Answer:
    return daemon.request(
        "PUT",
        f"/containers/{container}/archive",
        data,
        query={"path": path, **query},
        headers=TAR,
    )


def members(answer: Answer) -> dict[str, str]:
    assert answer.status == 200, answer.body
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        found = {}
        for info in archive:
            file = archive.extractfile(info) if info.isreg() else None
            text = file.read().decode(errors="replace") if file is not None else info.linkname
            found[info.name] = text
        return found


def stat_of(answer: Answer) -> Any:
    return json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))


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


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def threads(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/task"))


def raw(daemon: Daemon, head: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(daemon.socket)
    sock.sendall(head.encode())
    return sock


@pytest.mark.parametrize("running", [True, False])
def test_a_client_that_vanishes_leaves_nothing(daemon: Daemon, running: bool) -> None:
    container = sleeping(daemon) if running else stopped(daemon)
    large = tar_of({"large": os.urandom(8 << 20)})
    assert put(daemon, container, "/tmp", large).status == 200
    before = descriptors(daemon)
    url = f"/v1.51/containers/{container}/archive?path=/tmp"
    for _ in range(3):
        reading = raw(daemon, f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert reading.recv(1000).startswith(b"HTTP/1.1 200")
        reading.close()
        head = f"PUT {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(large)}\r\n\r\n"
        writing = raw(daemon, head)
        writing.sendall(large[: 1 << 20])
        writing.close()
    daemon.wait_for(lambda: descriptors(daemon) <= before)
    daemon.wait_for(lambda: not any("sampan-copy" in name for name in thread_names(daemon)))
    assert get(daemon, container, "/data/file").status == 200
    # What was cut off in its middle is not there by halves.
    answer = get(daemon, container, "/tmp/large")
    assert answer.status == 404 or len(members_raw(answer)["large"]) == 8 << 20


def members_raw(answer: Answer) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        files = [info for info in archive if info.isreg()]
        return {i.name: f.read() for i in files if (f := archive.extractfile(i)) is not None}


def thread_names(daemon: Daemon) -> list[str]:
    found = []
    for task in Path(f"/proc/{daemon.pid}/task").iterdir():
        try:
            found.append((task / "comm").read_text())
        except OSError:
            continue
    return found


def test_an_error_is_told_to_a_client_that_sends_no_more(daemon: Daemon) -> None:
    container = sleeping(daemon)
    bad = tar_of({"../evil": b""})
    head = (
        f"PUT /containers/{container}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\n"
        "Content-Length: 100000000\r\n\r\n"
    )
    sock = raw(daemon, head)
    sock.sendall(bad)
    answer = sock.recv(4000)
    assert answer.startswith(b"HTTP/1.1 400")
    sock.close()


def test_a_start_waits_for_a_copy_and_then_cuts_it_off(
    daemon: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    container = stopped(daemon)
    assert put(daemon, container, "/tmp", tar_of({"large": bytes(8 << 20)})).status == 200
    sock = raw(daemon, f"GET /containers/{container}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\n\r\n")
    assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    begin = time.monotonic()
    assert daemon.post(f"/containers/{container}/start").status == 204
    assert GRACE - 1 < time.monotonic() - begin < GRACE + 4
    received = 0
    while data := sock.recv(1 << 20):
        received += len(data)
    assert received < 8 << 20
    sock.close()
    daemon.wait(container)


def test_a_removal_does_not_wait(daemon: Daemon) -> None:
    container = sleeping(daemon)
    assert put(daemon, container, "/tmp", tar_of({"large": bytes(8 << 20)})).status == 200
    sock = raw(daemon, f"GET /containers/{container}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\n\r\n")
    assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    assert daemon.delete(f"/containers/{container}", force=1).status == 204
    while sock.recv(1 << 20):
        pass
    sock.close()
    daemon.wait_for(lambda: not any("sampan-copy" in name for name in thread_names(daemon)))


def test_a_volume_stays_where_it_is_for_a_copy_that_outlives_its_container(
    daemon: Daemon,
) -> None:
    """What is put into a volume lands there, though the container ends meanwhile."""
    container = sleeping(daemon, HostConfig={"Binds": ["kept:/v"]})
    data = tar_of({"first": b"1", "large": bytes(4 << 20), "last": b"2"})
    head = (
        f"PUT /containers/{container}/archive?path=/v HTTP/1.1\r\nHost: x\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    sock = raw(daemon, head)
    sock.sendall(data[: 1 << 20])
    volume = daemon.data_root / "volumes/kept/_data"
    daemon.wait_for((volume / "first").exists)
    daemon.post(f"/containers/{container}/kill")
    sock.sendall(data[1 << 20 :])
    assert sock.recv(4000).startswith(b"HTTP/1.1 200")
    sock.close()
    assert {path.name for path in volume.iterdir()} == {"first", "large", "last"}


def test_a_full_disk_is_said_and_leaves_no_half_file(daemon: Daemon) -> None:
    container = sleeping(daemon, HostConfig={"Tmpfs": {"/t": "size=1m"}})
    answer = put(daemon, container, "/t", tar_of({"small": b"x", "large": bytes(2 << 20)}))
    assert answer.status == 500
    assert "no space left on device while copying large" in answer.message
    assert members(get(daemon, container, "/t")) == {"t": "", "t/small": "x"}


def test_a_bomb_is_contained(daemon: Daemon) -> None:
    """A few kilobytes that say they are a terabyte fill what the container may fill, and no more;
    and none of it the daemon's memory."""
    container = sleeping(daemon, HostConfig={"Tmpfs": {"/t": "size=8m"}})
    data = bytearray(gzip.compress(tar_of({"bomb": bytes(64 << 20)})))
    before = memory(daemon)
    answer = put(daemon, container, "/t", bytes(data))
    assert (answer.status, "no space left" in answer.message) == (500, True)
    assert memory(daemon) - before < 48 << 20
    for name in ("../../etc/passwd", "a/../../x"):
        assert put(daemon, container, "/t", tar_of({name: b"evil"})).status == 400
    links = tar_of({"l": "/../../../../etc", "l/sampan-evil": b"evil"})
    assert put(daemon, container, "/t", links).status == 200
    assert not os.path.exists("/etc/sampan-evil")
    assert get(daemon, container, "/etc/sampan-evil").status == 200


def memory(daemon: Daemon) -> int:
    with open(f"/proc/{daemon.pid}/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


SWAP = """
cd /data; mkdir -p real; echo of the container >real/secret
while :; do
  rm -rf swapped 2>/dev/null; ln -s TARGET swapped 2>/dev/null
  rm -f swapped 2>/dev/null; mv real swapped 2>/dev/null; mv swapped real 2>/dev/null
  mkdir -p real; echo of the container >real/secret
done
"""


@pytest.mark.parametrize("state", ["in-root", "in-volume"])
def test_a_container_that_swaps_a_directory_for_a_link_all_the_time_cve_2018_15664(
    daemon: Daemon, tmp_path: Path, state: str
) -> None:
    """From inside, by a container's own shell: nothing of the machine comes out or is written."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of the machine\n")
    # The same path leads somewhere inside the container too, as a link there may.
    host = {"Binds": ["swapped:/data"]} if state == "in-volume" else {}
    script = SWAP.replace("TARGET", str(outside))
    container = daemon.run("sh", "-c", script, Image="cp:1", HostConfig=host)
    seen: set[bytes] = set()
    written = tar_of({"swapped": None, "swapped/secret": b"written", "swapped/new": b"w"})
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        for path in ("/data", "/data/swapped/", "/data/swapped/secret"):
            try:
                answer = get(daemon, container, path)
            except http.client.HTTPException:
                continue  # a file became shorter while it was read
            if answer.status == 200:
                seen |= set(members_raw(answer).values())
        for path in ("/data", "/data/swapped"):
            put(daemon, container, path, written)
    assert seen and b"of the machine\n" not in seen
    assert (outside / "secret").read_text() == "of the machine\n"
    assert os.listdir(outside) == ["secret"]


def test_nothing_is_imported_from_a_container_cve_2019_14271(daemon: Daemon) -> None:
    """An image that brings a library of Python's own, at the paths ours has, is not believed."""
    library = sysconfig.get_paths()["stdlib"].lstrip("/")
    evil = b"open('/sampan-imported', 'w').close()\n"
    entries: dict[str, Any] = {}
    at = ""
    for part in library.split("/"):
        at = f"{at}/{part}" if at else part
        entries[at] = None
    for module in ("bz2.py", "lzma.py", "linecache.py", "tracemalloc.py", "encodings.py"):
        entries[f"{library}/{module}"] = evil
    import_image(daemon, "evil:1", entries)
    container = daemon.run("sleep", "100", Image="evil:1")
    for pack in (bz2.compress, lzma.compress):
        assert put(daemon, container, "/tmp", pack(tar_of({"f": b"x"}))).status == 200
    assert get(daemon, container, "/tmp/f").status == 200
    assert not os.path.exists("/sampan-imported")
    assert get(daemon, container, "/sampan-imported").status == 404
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "overlay" not in maps


def test_many_copies_at_once(daemon: Daemon) -> None:
    container = stopped(daemon)
    results: list[int] = []

    def work(number: int) -> None:
        data = tar_of({f"f{number}": os.urandom(200_000)})
        results.append(put(daemon, container, "/tmp", data).status)
        results.append(get(daemon, container, f"/tmp/f{number}").status)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [200] * 24
    daemon.post(f"/containers/{container}/start")
    daemon.wait(container)


def test_many_copies_of_one_file_at_once(daemon: Daemon) -> None:
    """Each of them is whole, and the last one stays."""
    container = stopped(daemon)
    results: set[tuple[int, str]] = set()

    def work(number: int) -> None:
        data = tar_of({"same": bytes([number]) * 1000})
        for _ in range(15):
            answer = put(daemon, container, "/tmp", data)
            results.add((answer.status, answer.message if answer.status != 200 else ""))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == {(200, "")}
    with tarfile.open(fileobj=io.BytesIO(get(daemon, container, "/tmp/same").body)) as archive:
        (member,) = archive.getmembers()
        file = archive.extractfile(member)
        assert file is not None
        content = file.read()
    assert content == content[:1] * 1000
    daemon.delete(f"/containers/{container}")


def test_an_events_listener_hears_of_copies(daemon: Daemon) -> None:
    begin = time.time()
    container = sleeping(daemon)
    put(daemon, container, "/tmp", tar_of({"f": b""}))
    get(daemon, container, "/tmp")
    daemon.get(f"/containers/{container}/export")
    filters = json.dumps({"container": [container]})
    lines = daemon.get("/events", since=begin, until=time.time(), filters=filters).body
    actions = [json.loads(line)["Action"] for line in lines.splitlines()]
    assert actions[2:] == ["extract-to-dir", "archive-path", "export"]


def test_a_killed_daemon_leaves_no_view(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    try:
        daemon.start()
        container = daemon.create("true")
        head = f"GET /containers/{container}/archive?path=/usr HTTP/1.1\r\nHost: x\r\n\r\n"
        sock = raw(daemon, head)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        daemon.stop(signal.SIGKILL)
        with pytest.raises((ConnectionError, http.client.HTTPException, AssertionError)):
            while sock.recv(1 << 20):
                pass
            raise ConnectionError
        sock.close()
        daemon.start()
        assert daemon.post(f"/containers/{container}/start").status == 204
        assert daemon.wait(container) == 0
    finally:
        daemon.close()
