"""Images of a data root that a daemon may have, seen from a session beside it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sampan
from sampan.image.store import ImageStore
from tests.daemon_fixture import Daemon
from tests.image.archives import configuration, docker_save
from tests.sdk.conftest import left, sessions
from tests.storage.drivers.layers import layer

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.root

BUSYBOX = Path("/bin/busybox").read_bytes()
BASE = layer(
    {
        "bin/": None,
        "bin/busybox": BUSYBOX,
        **dict.fromkeys(("bin/sh", "bin/cat", "bin/ls", "bin/echo", "bin/id"), "busybox"),
        "etc/": None,
        "etc/passwd": b"root:x:0:0::/:/bin/sh\nada:x:7:8::/:/bin/sh\n",
        "data/": None,
        "data/old": b"old\n",
        "gone": b"gone",
        "opaque/": None,
        "opaque/hidden": b"hidden",
    },
    mode=0o755,
)
TOP = layer(
    {
        "top": b"top\n",
        ".wh.gone": b"",
        "opaque/": None,
        "opaque/.wh..wh..opq": b"",
        "opaque/shown": b"shown",
    }
)
SETTINGS = {
    "Env": ["PATH=/bin", "GREETING=hello"],
    "Entrypoint": ["echo"],
    "Cmd": ["from", "the", "image"],
    "User": "ada",
    "WorkingDir": "/etc",
    "Volumes": {"/data": {}},
}


def archive(*layers: bytes, name: str, **settings: object) -> bytes:
    return docker_save(list(layers), [name], configuration(list(layers), **settings))


def put(data_root: Path, *archives: bytes, driver: str = "overlay2") -> None:
    """Load images as a daemon would that has been stopped since."""
    store = ImageStore(str(data_root), driver)
    try:
        for data in archives:
            store.load(io.BytesIO(data))
    finally:
        store.close()


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def session(data_root: Path) -> Iterator[sampan.Session]:
    with sampan.Session(data_root) as session:
        yield session
        assert left(data_root) == []
    assert sessions(data_root) == []


@pytest.mark.parametrize("driver", ["overlay2", "overlay", "vfs"])
def test_an_images_layers_and_settings(
    data_root: Path, session: sampan.Session, driver: str
) -> None:
    put(data_root, archive(BASE, TOP, name="ours:1", **SETTINGS), driver=driver)
    assert session.run("ours:1").text == "from the image\n"
    line = "echo $GREETING; id -un; ls /opaque /gone; cat /top; pwd"
    result = session.run("ours:1", ["-c", line], entrypoint=["sh"])
    assert result.text == "hello\nada\n/opaque:\nshown\ntop\n/etc\n"
    assert "/gone" in result.error_text


def test_writes_go_nowhere(data_root: Path, session: sampan.Session) -> None:
    put(data_root, archive(BASE, name="ours:1"))
    assert session.run("ours:1", ["sh", "-c", "echo x > /top; echo x > /etc/passwd"]).ok
    assert session.run("ours:1", ["sh", "-c", "ls /top; cat /etc/passwd"]).text.startswith("root")


def test_an_images_volume_lives_as_long_as_the_container(
    data_root: Path, session: sampan.Session
) -> None:
    put(data_root, archive(BASE, name="ours:1", Volumes={"/data": {}}))
    line = "cat /data/old /data/given; echo new > /data/new"
    given = {"/data/given": "given\n"}
    result = session.run("ours:1", ["sh", "-c", line], files=given, collect=["/data"])
    assert result.text == "old\ngiven\n"
    assert result.files == {
        "/data/old": b"old\n",
        "/data/given": b"given\n",
        "/data/new": b"new\n",
    }
    assert session.run("ours:1", ["ls", "/data"]).text == "old\n"
    # In a read-only root too one may write to it.
    line += "; ls /data; echo > /top"
    result = session.run("ours:1", ["sh", "-c", line], files=given, read_only=True)
    assert result.text == "old\ngiven\ngiven\nnew\nold\n"
    assert "Read-only" in result.error_text
    with pytest.raises(sampan.InvalidArgument, match="declares a volume"):
        session.run("ours:1", ["sh"], read_only=True, collect=["/data/new"])


def test_names_and_identities(data_root: Path, session: sampan.Session) -> None:
    put(data_root, archive(BASE, name="registry.example/team/ours:1"))
    config = configuration([BASE])
    from tests.image.archives import image_id

    identity = image_id(config)
    for name in (
        "registry.example/team/ours:1",
        identity,
        identity.removeprefix("sha256:"),
        identity.removeprefix("sha256:")[:12],
    ):
        assert session.run(name, ["echo", "x"]).text == "x\n"
    for name in ("ours", "ours:2", "sha256:" + "0" * 64):
        with pytest.raises(sampan.NotFound, match="No such image"):
            session.run(name, ["echo"])
    with pytest.raises(sampan.InvalidArgument, match="invalid reference format"):
        session.run("NOT A NAME", ["echo"])


def test_a_name_that_moves_is_followed(data_root: Path, session: sampan.Session) -> None:
    put(data_root, archive(BASE, name="ours:1", Env=["PATH=/bin", "A=1"]))
    assert session.run("ours:1", ["sh", "-c", "echo $A"]).text == "1\n"
    put(data_root, archive(BASE, name="ours:1", Env=["PATH=/bin", "A=2"]))
    assert session.run("ours:1", ["sh", "-c", "echo $A"]).text == "2\n"


def test_layers_in_use_are_not_collected(data_root: Path, session: sampan.Session) -> None:
    put(data_root, archive(BASE, TOP, name="ours:1"), archive(BASE, name="base:1"))
    with session.start("ours:1", ["cat"], stdin=True) as process:
        store = ImageStore(str(data_root))
        try:
            for name in ("ours:1", "base:1"):
                store.remove(name, used_by=lambda _: ())
            assert len(store.driver.layers()) == 2
            with pytest.raises(sampan.NotFound, match="No such image: ours:1"):
                session.run("ours:1", ["echo"])
            process.write(b"still here")
            process.close_stdin()
            assert process.wait().text == "still here"
            assert len(store.driver.layers()) == 2  # until the session has ended
            session.close()
            store.layers.collect()
            assert store.driver.layers() == []
        finally:
            store.driver.collect()
            store.close()


def test_beside_a_daemon(tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    daemon = Daemon(root)
    try:
        daemon.start()
        with sampan.Session(daemon.data_root) as session:
            with pytest.raises(sampan.NotFound):
                session.run("ours:1", ["echo"])
            data = archive(BASE, TOP, name="ours:1")
            assert daemon.request("POST", "/images/load", data).status == 200
            assert session.run("ours:1", ["cat", "/top"]).text == "top\n"
            container = daemon.run("sleep", "600")
            assert session.run("host", ["echo", "x"]).text == "x\n"
            # One that begins anew takes nothing of ours for its own, and we go on meanwhile.
            with session.start("ours:1", ["cat"], stdin=True) as process:
                daemon.kill()
                assert session.run("ours:1", ["cat", "/top"]).text == "top\n"
                daemon.start()
                process.write(b"x")
                process.close_stdin()
                assert process.wait().text == "x"
            assert daemon.state(container)["Running"] is True
            assert [one["Id"] for one in daemon.get("/containers/json", all=1).json()] == [
                container
            ]
    finally:
        daemon.close()


def test_a_data_root_nobody_has_used(data_root: Path, session: sampan.Session) -> None:
    with pytest.raises(sampan.NotFound, match=r"bring it into .*data"):
        session.run("ours:1", ["echo"])
    assert session.run("host", ["echo", "x"]).text == "x\n"
    assert not (data_root / "sampan.db").exists()


def test_a_database_of_another_version(data_root: Path, session: sampan.Session) -> None:
    import sqlite3

    put(data_root, archive(BASE, name="ours:1"))
    with sqlite3.connect(data_root / "sampan.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(sampan.NotSupported, match="version 999"):
        session.run("ours:1", ["echo"])


def test_the_host_image_follows_the_machine(
    data_root: Path, session: sampan.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert session.run("host", ["true"]).ok
    home = session._owner.home()
    before = home.images.find("host").base
    assert home.images.find("host").base == before
    real = home.images._machine.entries

    def entries() -> list[object]:
        return [entry for entry in real() if entry.path != "etc/issue"]

    monkeypatch.setattr(home.images._machine, "entries", entries)
    monkeypatch.setattr(home.images._machine, "signature", lambda: (1,))
    assert home.images.find("host").base != before
    assert not session.run("host", ["cat", "/etc/issue"]).ok
    session.close()
    # When the next one begins, what no session holds goes, but for the one used last.
    place = data_root / "sessions/host"
    assert len(list(place.iterdir())) == 2
    (place / "killed.new/diff").mkdir(parents=True)
    with sampan.Session(data_root):
        (kept,) = place.iterdir()
        assert kept.name not in before.top
