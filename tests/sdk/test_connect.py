"""``connect``: a daemon's containers and images as objects, in both forms."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sampan
from sampan import aio
from sampan.sdk.options import create_body
from tests.daemon_fixture import Daemon
from tests.image.archives import docker_save
from tests.sdk.test_images import BASE, archive

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def engine(daemon: Daemon) -> Iterator[sampan.Engine]:
    yield sampan.connect(daemon.host)
    daemon.remove_all()


def test_a_containers_life(engine: sampan.Engine) -> None:
    made = engine.containers.create(
        "host",
        ["sh", "-c", "echo out; echo err >&2; read x; exit $x"],
        name="one",
        labels={"a": "b"},
        network="none",
        stdin=True,
        memory="64m",
        env={"X": "1"},
    )
    assert made.status() == "created"
    assert made.inspect()["HostConfig"]["Memory"] == 64 << 20
    made.start()
    made.start()  # it runs already: no error
    (row,) = engine.containers.list(filters={"label": ["a=b"]})
    assert (row.id, row.name, row.state, row.image) == (made.id, "one", "running", "host")
    assert row.labels == {"a": "b"}
    assert engine.containers.get("one").id == made.id
    done = made.exec(["sh", "-c", "echo $Y; id -u; echo no >&2; exit 3"], env={"Y": "2"}, user="7")
    assert (done.exit_code, done.text, done.stderr, done.ok) == (3, "2\n7\n", b"no\n", False)
    made.pause()
    assert made.status() == "paused"
    made.unpause()
    made.rename("two")
    with pytest.raises(sampan.NotFound, match="No such container: one"):
        engine.containers.get("one")
    made.stop(timeout=0)
    made.stop()
    assert made.wait() == 137
    assert made.logs(stderr=False) == b"out\n"
    assert set(made.logs().splitlines()) == {b"out", b"err"}
    assert made.logs(tail=0) == b""
    made.restart()
    with pytest.raises(sampan.Conflict, match="running"):
        made.remove()
    made.kill("TERM")
    made.kill()
    with pytest.raises(sampan.Conflict, match="not running"):
        made.kill()
    made.remove(volumes=True)
    assert engine.containers.list(all=True) == ()
    with pytest.raises(sampan.NotFound):
        made.inspect()


def test_its_log_is_followed(engine: sampan.Engine) -> None:
    line = "for i in 1 2 3; do echo $i; sleep 0.1; done; echo last >&2"
    made = engine.containers.create("host", ["sh", "-c", line], network="none")
    made.start()
    chunks = list(made.follow())
    assert b"".join(c.data for c in chunks if c.stream == "stdout") == b"1\n2\n3\n"
    assert chunks[-1] == sampan.Chunk("stderr", b"last\n")


def test_a_stream_that_is_left(engine: sampan.Engine) -> None:
    made = engine.containers.create("host", ["yes"], network="none")
    made.start()
    with made.follow() as stream:
        assert stream.read() is not None
    assert stream.read() is None
    made.remove(force=True)


def test_what_is_wrong(engine: sampan.Engine) -> None:
    with pytest.raises(sampan.NotFound, match="No such image"):
        engine.containers.create("no-such-image")
    with pytest.raises(sampan.InvalidArgument):
        engine.containers.create("host", ["true"], name="not/a/name")
    with pytest.raises(sampan.InvalidArgument, match="empty"):
        engine.containers.get("")
    with pytest.raises(sampan.NotFound):
        engine.containers.get("../../images/json?x=1")
    options: dict[str, Any] = {"collect": ["/a"]}
    with pytest.raises(TypeError, match="collect"):
        engine.containers.create("host", ["true"], **options)
    engine.containers.create("host", ["true"], name="taken")
    with pytest.raises(sampan.Conflict, match="taken"):
        engine.containers.create("host", ["true"], name="taken")
    missing = engine.containers.create("host", ["no-such-command"])
    with pytest.raises(sampan.InvalidArgument, match="no-such-command"):
        missing.start()


def test_images(engine: sampan.Engine, tmp_path: Path) -> None:
    data = archive(BASE, name="ours:1")
    path = tmp_path / "image.tar"
    path.write_bytes(data)
    for source in (data, path, str(path), io.BytesIO(data)):
        assert engine.images.load(source) == ("Loaded image: ours:1",)
    assert "ours:1" in {tag for image in engine.images.list() for tag in image.tags}
    assert engine.images.list(filters={"reference": ["ours"]})[0].size > 0
    engine.images.tag("ours:1", "registry.example:5000/other:2")
    identity = engine.images.inspect("registry.example:5000/other:2")["Id"]
    assert identity == engine.images.inspect("ours:1")["Id"]
    saved = engine.images.save(["ours:1"])
    made = engine.containers.create("ours:1", ["echo", "x"], network="none")
    made.start()
    assert made.wait() == 0
    with pytest.raises(sampan.Conflict):
        engine.images.remove(identity)
    made.remove()
    for name in ("ours:1", "registry.example:5000/other:2"):
        engine.images.remove(name)
    with pytest.raises(sampan.NotFound):
        engine.images.inspect("ours:1")
    assert engine.images.load(saved) == ("Loaded image: ours:1",)
    identity = engine.images.import_root(BASE, "mine", ["CMD echo mine"])
    assert engine.images.inspect("mine:latest")["Id"] == identity
    with pytest.raises(sampan.SampanError):
        engine.images.load(b"no archive at all")
    broken = docker_save([BASE], ["ours:2"], change={"manifest.json": b"{"})
    with pytest.raises(sampan.SampanError):
        engine.images.load(broken)
    with pytest.raises(FileNotFoundError):
        engine.images.load("/nowhere/at/all")
    with pytest.raises(sampan.SampanError):
        engine.images.pull("registry.invalid/x")


def test_events_of_the_past_and_the_present(engine: sampan.Engine) -> None:
    begin = time.time()
    made = engine.containers.create("host", ["true"], name="seen", network="none")
    made.start()
    made.wait()
    with engine.events(since=begin, filters={"container": [made.id]}) as events:
        seen = [next(iter(events)) for _ in range(3)]
    assert [event.action for event in seen] == ["create", "start", "die"]
    assert seen[0].id == made.id
    assert seen[0].type == "container"
    assert seen[2].attributes["exitCode"] == "0"
    assert seen[0].time >= int(begin * 1e9)


def test_what_it_is(engine: sampan.Engine) -> None:
    version = engine.version()
    assert (version.api_version, version.os) == ("1.51", "linux")
    assert engine.info()["Containers"] >= 0


def test_threads_share_it(engine: sampan.Engine) -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            made = engine.containers.create("host", ["echo", str(number)], network="none")
            made.start()
            assert made.wait() == 0
            assert made.logs() == f"{number}\n".encode()
            made.remove()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_the_same_with_asyncio(daemon: Daemon) -> None:
    async def one(engine: Any, number: int) -> bytes:
        made = await engine.containers.create("host", ["echo", str(number)], network="none")
        await made.start()
        assert await made.wait() == 0
        data: bytes = await made.logs()
        await made.remove()
        return data

    async def main() -> None:
        engine = aio.connect(daemon.host)
        assert (await engine.version()).os == "linux"
        numbers = await asyncio.gather(*(one(engine, n) for n in range(8)))
        assert numbers == [f"{n}\n".encode() for n in range(8)]
        made = await engine.containers.create("host", ["sh", "-c", "echo 1; sleep 600"])
        await made.start()
        async with made.follow() as stream:
            assert await stream.read() == sampan.Chunk("stdout", b"1\n")
        # What lasts can be cancelled: waiting for an end, for output, for an event.
        begin = time.monotonic()
        for waiting in (made.wait(), made.follow(tail=0).read(), engine.events().read()):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting, 0.3)
        assert time.monotonic() - begin < 60
        assert (await made.exec(["echo", "x"])).text == "x\n"
        await made.remove(force=True)
        assert (await engine.images.list())[-1].tags == ("host:latest",)
        with pytest.raises(sampan.NotFound):
            await engine.images.inspect("no-such-image")

    asyncio.run(main())


def test_where_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(sampan.Unavailable, match=r"Cannot connect .* with: sampan daemon$"):
        sampan.connect(f"unix://{tmp_path}/nobody.sock").version()
    with pytest.raises(sampan.InvalidArgument, match="unable to parse the host"):
        sampan.connect("nonsense").version()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_hang_up, args=(listener,)).start()
    with pytest.raises(sampan.Unavailable):
        sampan.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}").version()


def _hang_up(listener: socket.socket) -> None:
    with listener:
        listener.accept()[0].close()


def test_a_daemon_is_begun_where_it_may_be(tmp_path: Path) -> None:
    """In a mount namespace of its own: the socket is our own, and so is what lies beside it."""
    code = (
        "import os, signal, sampan\n"
        "from sampan.kernel.mounts import MS_PRIVATE, MS_REC, mount\n"
        "from sampan.kernel.namespaces import CLONE_NEWNS, unshare\n"
        "unshare(CLONE_NEWNS)\nmount(None, '/', None, MS_REC | MS_PRIVATE)\n"
        "for place in ('/run', '/var/lib'): mount('tmpfs', place, 'tmpfs')\n"
        "try: sampan.connect(start=False).version()\n"
        "except sampan.Unavailable: print('none')\n"
        "engine = sampan.connect()\n"
        "print(engine.version().os)\n"
        "print(len(engine.containers.list()))\n"
        "os.kill(int(open('/run/sampan/sampan.pid').read()), signal.SIGTERM)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.stdout.split() == ["none", "linux", "0"]
    assert "no daemon was running; started one" in done.stderr


@pytest.mark.v2
def test_an_ordinary_user_is_told_that_a_daemon_is_needed() -> None:
    code = (
        "import os, sampan\n"
        "from sampan.kernel.mounts import MS_PRIVATE, MS_REC, mount\n"
        "from sampan.kernel.namespaces import CLONE_NEWNS, unshare\n"
        "unshare(CLONE_NEWNS)\nmount(None, '/', None, MS_REC | MS_PRIVATE)\n"
        "mount('tmpfs', '/run', 'tmpfs')\n"
        "os.setuid(65534)\n"
        "try: sampan.connect().version()\n"
        "except sampan.PermissionDenied as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": "/"},
    )
    assert "no daemon answers at unix:///run/sampan/sampan.sock" in done.stdout
    assert "starting one needs root: use sudo, or point SAMPAN_HOST at" in done.stdout


def test_what_is_sent() -> None:
    body = create_body(
        "host",
        ["x"],
        {
            "restart": "on-failure:3",
            "auto_remove": True,
            "tty": True,
            "stop_signal": "SIGINT",
            "network": "host",
            "mounts": [sampan.Bind("/a", "/b", read_only=True)],
        },
    )
    host = body["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert (host["AutoRemove"], host["NetworkMode"]) == (True, "host")
    assert (body["Tty"], body["StopSignal"], body["Cmd"]) == (True, "SIGINT", ["x"])
    assert host["Mounts"] == [{"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True}]
    assert json.dumps(body)
