"""``--mount`` and all its options, as the real client sends them and the kernel shows them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.busybox import import_image, tar_of
from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory with a tmpfs mounted below it, itself a mount that is shared."""
    top = tmp_path / "tree"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tree", str(top)], check=True)
    subprocess.run(["mount", "--make-shared", str(top)], check=True)
    (top / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "sub", str(top / "sub")], check=True)
    (top / "sub/file").write_text("below\n")
    try:
        yield top
    finally:
        subprocess.run(["umount", "-R", str(top)], check=True)


def run(daemon: Daemon, mount: str, script: str, *more: str) -> tuple[int, str, str]:
    done = daemon.docker(
        "run", "--rm", "--network=none", "--mount", mount, *more, "host", "sh", "-c", script
    )
    return done.returncode, done.stdout, done.stderr


WRITE = (
    "cat /m/sub/file; touch /m/x 2>/dev/null && echo top; touch /m/sub/x 2>/dev/null && echo sub"
)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("", "below\ntop\nsub\n"),
        (",readonly", "below\n"),
        (",ro,bind-recursive=enabled", "below\n"),
        (",ro,bind-recursive=writable", "below\nsub\n"),
        (",ro,bind-recursive=readonly,bind-propagation=rprivate", "below\n"),
        (",bind-recursive=disabled", "top\nsub\n"),
        (",bind-nonrecursive", "top\nsub\n"),
        (",consistency=delegated", "below\ntop\nsub\n"),
    ],
)
def test_read_only_and_recursive(daemon: Daemon, tree: Path, options: str, shown: str) -> None:
    _, text, error = run(daemon, f"type=bind,src={tree},dst=/m{options}", f"{{ {WRITE}; }}; true")
    assert text == shown, error


def test_before_api_1_44_what_is_mounted_below_stays_writable(daemon: Daemon, tree: Path) -> None:
    body = {
        "Image": "host",
        "Cmd": ["sh", "-c", WRITE],
        "HostConfig": {"NetworkMode": "none", "Binds": [f"{tree}:/m:ro"]},
    }
    for version, shown in (("v1.43", "below\nsub\n"), ("v1.44", "below\n")):
        container = daemon.post(f"/{version}/containers/create", body).json()["Id"]
        daemon.post(f"/containers/{container}/start")
        daemon.wait(container)
        assert daemon.logs(container) == shown


@pytest.mark.parametrize(
    ("propagation", "outward", "inward"),
    [("rprivate", False, False), ("rslave", False, True), ("rshared", True, True)],
)
def test_mounts_propagate_as_asked(
    daemon: Daemon, tree: Path, propagation: str, outward: bool, inward: bool
) -> None:
    for name in ("in", "out"):
        (tree / name).mkdir()
    container = daemon.run(
        "sh",
        "-c",
        "mount -t tmpfs inside /m/in && touch /m/in/inside && touch /m/ready;"
        " until [ -e /m/done ]; do sleep 0.02; done; ls /m/out",
        HostConfig={
            "CapAdd": ["SYS_ADMIN"],
            "SecurityOpt": ["seccomp=unconfined"],
            "Binds": [f"{tree}:/m:{propagation}"],
        },
    )
    daemon.wait_for((tree / "ready").exists)
    try:
        assert (tree / "in/inside").exists() == outward
        subprocess.run(["mount", "-t", "tmpfs", "outside", str(tree / "out")], check=True)
        (tree / "out/outside").touch()
        (tree / "done").touch()
        daemon.wait(container)
    finally:
        if outward:
            subprocess.run(["umount", str(tree / "in")], check=True)
    assert daemon.logs(container) == ("outside\n" if inward else "")


def test_propagation_needs_a_source_that_propagates(daemon: Daemon, tree: Path) -> None:
    subprocess.run(["mount", "--make-private", str(tree)], check=True)
    for kind, wanted in (("shared", "shared"), ("rslave", "shared or slave")):
        code, _, error = run(daemon, f"type=bind,src={tree},dst=/m,bind-propagation={kind}", "true")
        assert code == 125
        assert f"path {tree} is mounted on {tree} but it is not a {wanted} mount" in error


def test_a_mount_point_is_made_on_this_machine_when_told(daemon: Daemon, tmp_path: Path) -> None:
    mount = {"Type": "bind", "Source": f"{tmp_path}/a/b", "Target": "/m"}
    create = {**mount, "BindOptions": {"CreateMountpoint": True}}
    container = daemon.create("touch", "/m/x", HostConfig={"Mounts": [create]})
    assert not (tmp_path / "a").exists()
    daemon.post(f"/containers/{container}/start")
    daemon.wait(container)
    assert (tmp_path / "a/b/x").exists()


def test_a_source_that_went_away_fails_the_start(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    mount = {"Type": "bind", "Source": f"{tmp_path}/gone", "Target": "/m"}
    container = daemon.create("true", HostConfig={"Mounts": [mount]})
    (tmp_path / "gone").rmdir()
    answer = daemon.post(f"/containers/{container}/start")
    assert answer.status == 400
    assert f"bind source path does not exist: {tmp_path}/gone" in answer.message
    assert not (tmp_path / "gone").exists()


def test_tmpfs_options(daemon: Daemon) -> None:
    script = "stat -c %a /t; df -k /t | awk 'END{print $2}'; grep ' /t ' /proc/mounts"
    code, text, error = run(daemon, "type=tmpfs,dst=/t,tmpfs-size=64k,tmpfs-mode=0750", script)
    assert code == 0, error
    assert text.startswith("750\n64\n")
    assert "noexec" in text and "nosuid" in text
    options = {"Options": [["exec"], ["uid", "5"], ["nr_inodes", "7"]]}
    mount = {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": options}
    container = daemon.run("sh", "-c", script, HostConfig={"Mounts": [mount]})
    daemon.wait(container)
    row = daemon.logs(container).splitlines()[-1].split()[3].split(",")
    assert {"uid=5", "nr_inodes=7"} <= set(row)
    assert "noexec" not in row


def test_a_part_of_a_volume(daemon: Daemon) -> None:
    script = "mkdir -p /v/a/b; echo part > /v/a/b/file; ln -s a/b /v/link; ln -s /etc /v/out"
    code, _, error = run(daemon, "type=volume,src=parts,dst=/v", script)
    assert code == 0, error
    for subpath in ("a/b", "link"):
        mount = f"type=volume,src=parts,dst=/v,volume-subpath={subpath}"
        code, text, error = run(daemon, mount, "ls /v; cat /v/file")
        assert (code, text) == (0, "file\npart\n"), error
    for subpath, words in (("nope", "does not exist"), ("out", "leads out")):
        mount = f"type=volume,src=parts,dst=/v,volume-subpath={subpath}"
        code, _, error = run(daemon, mount, "true")
        assert code == 125
        assert f"cannot access path {subpath}" in error and words in error


def test_a_part_of_a_volume_is_not_filled_from_the_image(daemon: Daemon) -> None:
    import_image(daemon, "fills:1", {"data": None, "data/file": b"x"})
    code, _, error = run(daemon, "type=volume,src=sub,dst=/v", "mkdir /v/empty")
    assert code == 0, error
    mount = "type=volume,src=sub,dst=/data,volume-subpath=empty"
    done = daemon.docker(
        "run", "--rm", "--network=none", "--mount", mount, "fills:1", "ls", "/data"
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def two_layers(daemon: Daemon, name: str) -> None:
    """An image of two layers: the second hides a file of the first."""
    import io
    import json
    import tarfile

    from sampan.oci import digest as digests

    layers = [
        tar_of({"dir": None, "dir/one": b"one\n", "dir/gone": b"", "top": name.encode()}),
        tar_of({"dir": None, "dir/two": b"two\n", "dir/.wh.gone": b""}),
    ]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digests.of(data) for data in layers]},
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["0.tar", "1.tar"]}]
    files = {
        "0.tar": layers[0],
        "1.tar": layers[1],
        "config.json": config,
        "manifest.json": json.dumps(manifest).encode(),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    answer = daemon.request("POST", "/images/load", buffer.getvalue())
    assert b"Loaded image" in answer.body, answer.body


@pytest.mark.parametrize("layers", [1, 2])
def test_an_image_is_mounted_read_only(daemon: Daemon, layers: int) -> None:
    if layers == 1:
        import_image(daemon, "other:1", {"dir": None, "dir/one": b"one\n", "dir/two": b"two\n"})
    else:
        two_layers(daemon, "other:2")
    image = f"other:{layers}"
    script = "ls /i/dir; cat /i/dir/one; touch /i/x 2>/dev/null || echo refused"
    code, text, error = run(daemon, f"type=image,src={image},dst=/i", script)
    assert (code, text) == (0, "one\ntwo\none\nrefused\n"), error
    mount = f"type=image,src={image},dst=/i,image-subpath=dir"
    code, text, error = run(daemon, mount, "ls /i")
    assert (code, text) == (0, "one\ntwo\n"), error
    mount = f"type=image,src={image},dst=/one,image-subpath=dir/one"
    code, text, error = run(daemon, mount, "cat /one")
    assert (code, text) == (0, "one\n"), error
    code, _, error = run(daemon, f"type=image,src={image},dst=/i,image-subpath=nope", "true")
    assert (code, "cannot access path nope" in error) == (125, True)


def test_an_image_that_is_mounted_stays(daemon: Daemon) -> None:
    two_layers(daemon, "mounted:1")
    mount = {"Type": "image", "Source": "mounted:1", "Target": "/i"}
    container = daemon.create("cat", "/i/dir/two", HostConfig={"Mounts": [mount]})
    point = daemon.get(f"/containers/{container}/json").json()["Mounts"][0]
    assert (point["Type"], point["Name"], point["RW"]) == ("image", "mounted:1", False)
    answer = daemon.delete("/images/mounted:1")
    assert (answer.status, container[:12] in answer.message) == (409, True), answer.message
    assert daemon.delete("/images/mounted:1", force=1).status == 200
    daemon.post(f"/containers/{container}/start")
    assert daemon.wait(container) == 0
    assert daemon.logs(container) == "two\n"


def test_an_image_mount_that_cannot_be(daemon: Daemon) -> None:
    for source, status in (("nope:1", 404), ("host", 501)):
        mount = {"Type": "image", "Source": source, "Target": "/i"}
        body = {"Image": "host", "Cmd": ["true"], "HostConfig": {"Mounts": [mount]}}
        assert daemon.post("/containers/create", body).status == status


@pytest.fixture
def volume(daemon: Daemon) -> Iterator[Path]:
    """The directory of a volume, a mount that is shared, as the data root's is under systemd."""
    assert daemon.post("/volumes/create", {"Name": "under"}).status == 201
    place = daemon.data_root / "volumes/under/_data"
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(place)], check=True)
        (place / "sub").mkdir()
        yield place
    finally:
        subprocess.run(["umount", "-R", str(place)], check=True)


def test_what_is_mounted_in_a_volume_here_is_there_too(daemon: Daemon, volume: Path) -> None:
    writable = daemon.run("sleep", "1000", HostConfig={"Binds": ["under:/v"]})
    from_it = daemon.run("sleep", "1000", HostConfig={"VolumesFrom": [writable]})
    read_only = daemon.run("sleep", "1000", HostConfig={"Binds": ["under:/v:ro"]})
    from_ro = daemon.run("sleep", "1000", HostConfig={"VolumesFrom": [f"{writable}:ro"]})

    def seen() -> list[bool]:
        found = []
        for container in (writable, from_it, read_only, from_ro):
            pid = daemon.state(container)["Pid"]
            found.append(" /v/sub " in Path(f"/proc/{pid}/mountinfo").read_text())
        return found

    assert seen() == [False] * 4
    subprocess.run(["mount", "-t", "tmpfs", "later", str(volume / "sub")], check=True)
    assert seen() == [True, True, False, False]
    subprocess.run(["umount", str(volume / "sub")], check=True)
    assert seen() == [False] * 4
    shown = daemon.get(f"/containers/{writable}/json").json()["Mounts"]
    assert [one["Propagation"] for one in shown] == [""]
    # Nothing goes the other way.
    done = daemon.docker(
        *("run", "--rm", "--privileged", "--network=none", "-v", "under:/v", "host"),
        *("sh", "-c", "mount -t tmpfs inner /v/sub && echo done"),
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert not (volume / "sub").is_mount()
    # What somebody mounted on a volume is not the last container's to take away.
    for container in (writable, from_it, read_only, from_ro):
        assert daemon.delete(f"/containers/{container}", force=1).status == 204
    assert f" {volume} " in Path("/proc/self/mountinfo").read_text()
