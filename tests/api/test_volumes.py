"""Mounts of a container: binds, volumes named and not, tmpfs, propagation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root


def run(daemon: Daemon, command: str, **settings: Any) -> tuple[str, str]:
    container = daemon.run("sh", "-c", command, **settings)
    daemon.wait(container)
    return container, daemon.logs(container)


def test_a_bind_is_the_machines_directory(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("outside\n")
    _, text = run(
        daemon,
        "cat /mnt/in; echo inside > /mnt/out",
        HostConfig={"Binds": [f"{tmp_path}:/mnt"]},
    )
    assert text == "outside\n"
    assert (tmp_path / "out").read_text() == "inside\n"


def test_a_read_only_bind_refuses_writes_and_a_single_file_works(
    daemon: Daemon, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("outside\n")
    container, text = run(
        daemon,
        "cat /etc/one; echo x > /etc/one",
        HostConfig={"Binds": [f"{tmp_path}/in:/etc/one:ro"]},
    )
    assert text.startswith("outside\n")
    assert "ead-only" in text
    point = daemon.get(f"/containers/{container}/json").json()["Mounts"][0]
    assert (point["Type"], point["Mode"], point["RW"]) == ("bind", "ro", False)


def test_a_missing_source_is_made_for_v_and_refused_for_mount(
    daemon: Daemon, tmp_path: Path
) -> None:
    run(daemon, "touch /mnt/x", HostConfig={"Binds": [f"{tmp_path}/new/deep:/mnt"]})
    assert (tmp_path / "new/deep/x").exists()
    mount = {"Type": "bind", "Source": f"{tmp_path}/gone", "Target": "/mnt"}
    body = {"Image": "host", "Cmd": ["true"], "HostConfig": {"Mounts": [mount]}}
    answer = daemon.post("/containers/create", body)
    assert answer.status == 400
    assert f"bind source path does not exist: {tmp_path}/gone" in answer.message


def test_a_named_volume_outlives_its_container(daemon: Daemon) -> None:
    first, _ = run(daemon, "echo kept > /v/x", HostConfig={"Binds": ["kept:/v"]})
    daemon.delete(f"/containers/{first}", v=1)
    second, text = run(
        daemon,
        "cat /v/x",
        HostConfig={"Mounts": [{"Type": "volume", "Source": "kept", "Target": "/v"}]},
    )
    assert text == "kept\n"
    point = daemon.get(f"/containers/{second}/json").json()["Mounts"][0]
    assert (point["Type"], point["Name"], point["Driver"]) == ("volume", "kept", "local")
    assert point["Source"] == str(daemon.data_root / "volumes/kept/_data")


def test_a_new_volume_is_filled_from_the_image_unless_told_not_to(daemon: Daemon) -> None:
    _, text = run(daemon, "ls /etc/profile", HostConfig={"Binds": ["filled:/etc"]})
    assert text == "/etc/profile\n"
    _, text = run(daemon, "ls -A /etc/default", HostConfig={"Binds": ["bare:/etc/default:nocopy"]})
    assert text == ""


def test_an_anonymous_volume_goes_with_its_container_when_asked(daemon: Daemon) -> None:
    def made() -> set[str]:
        names = {path.name for path in (daemon.data_root / "volumes").iterdir()}
        return {name for name in names if len(name) == 64}

    before = made()
    kept, _ = run(daemon, "touch /v/x", Volumes={"/v": {}})
    gone, _ = run(daemon, "touch /v/x", Volumes={"/v": {}})
    assert len(made() - before) == 2
    daemon.delete(f"/containers/{kept}")
    daemon.delete(f"/containers/{gone}", v=1)
    assert len(made() - before) == 1
    container = daemon.create("true", Volumes={"/v": {}}, HostConfig={"AutoRemove": True})
    daemon.post(f"/containers/{container}/start")
    daemon.wait_for(lambda: daemon.get(f"/containers/{container}/json").status == 404)
    assert len(made() - before) == 1


def test_tmpfs_both_ways(daemon: Daemon) -> None:
    mount = {"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"SizeBytes": 65536, "Mode": 0o700}}
    _, text = run(
        daemon,
        "stat -f -c %T /a /b; stat -c %a /b; df -k /b | awk 'END{print $2}'",
        HostConfig={"Tmpfs": {"/a": "size=1m"}, "Mounts": [mount]},
    )
    assert text == "tmpfs\ntmpfs\n700\n64\n"


def test_two_mounts_in_one_place_are_refused(daemon: Daemon) -> None:
    host = {"Binds": ["/usr:/x"], "Tmpfs": {"/x": ""}}
    body = {"Image": "host", "Cmd": ["true"], "HostConfig": host}
    answer = daemon.post("/containers/create", body)
    assert (answer.status, answer.message) == (400, "Duplicate mount point: /x")
