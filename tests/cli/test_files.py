"""``cp``, ``diff``, ``export``, ``volume`` and ``system df``: as Docker's client does them."""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.cli.commands.copy import _Counting, _unpack
from sampan.errors import InvalidArgument
from tests.api.busybox import import_image, tar_of
from tests.cli.canned import Canned
from tests.cli.test_same_output import ageless, both
from tests.daemon_fixture import DOCKER, Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.peer,
    pytest.mark.skipif(not DOCKER, reason="needs Docker's client"),
]


@pytest.fixture(scope="module")
def peopled(daemon: Daemon) -> Daemon:
    import_image(
        daemon,
        "files:1",
        {
            "data": None, "data/file": b"hello\n", "data/sub": None, "data/sub/deep": b"deep\n",
            "data/link": "file", "tmp/abs": "/data/file", "tmp/rel": "../data",
            "tmp/dangling": "/nowhere/x",
        },
    )  # fmt: skip
    daemon.run("sh", "-c", "echo new >/new; rm /data/sub/deep; exec sleep 1000", Image="files:1",
               name="changed")  # fmt: skip
    daemon.run("sleep", "1000", Image="files:1", name="fresh")
    daemon.create("true", Image="files:1", name="unused", HostConfig={"Binds": ["v10:/v"]})
    for number in (2, 1):
        daemon.post("/volumes/create", {"Name": f"v{number}", "Labels": {"k": str(number)}})
    Path(daemon.data_root / "volumes/v1/_data/file").write_bytes(b"x" * 12345)
    return daemon


SAME = [
    "diff changed",
    "diff fresh",
    "diff nope",
    "diff",
    "container diff changed",
    "export nope",
    "volume ls",
    "volume list -q",
    "volume ls --format json",
    "volume ls --format raw",
    "volume ls --format '{{json .}}'",
    "volume ls --format 'table {{.Name}}\\t{{.Labels}}\\t{{.Label \"k\"}}\\t{{.Scope}}'",
    "volume ls --format '{{.Name}} {{.Links}} {{.Size}} {{.Status}} {{.Mountpoint}}'",
    "volume ls --filter name=v1",
    "volume ls --filter label=k=1",
    "volume ls --filter dangling=x",
    "volume ls --filter nope=1",
    "volume ls x",
    "volume inspect v1 v2",
    "volume inspect nope v1",
    "volume inspect -f '{{.Name}} {{.Options}} {{.Labels}}' v1",
    "inspect --type volume v1",
    "volume create v1",
    "volume create x",
    "volume create -d nope vvv",
    "volume create -o type=tmpfs vvv",
    "volume create a b",
    "volume rm v10",
    "volume rm nope",
    "volume rm -f nope nopf",
    "volume rm",
    "volume prune",
    "volume prune -a",
    "volume prune -f --filter label=none",
    "volume prune -f --filter nope=1",
    "system df",
    "system df --format json",
    "system df --format raw",
    "system df --format '{{.Type}}:{{.TotalCount}}:{{.Active}}:{{.Reclaimable}}'",
    "system df --format 'table {{.Type}}\\t{{.Size}}'",
    "system df -v",
    "system df -v --format '{{json .Volumes}}'",
    "system df -v --format '{{range .Images}}{{.Repository}} {{.UniqueSize}} {{end}}'",
    "system df -v --format json",
    "system df x",
    "cp fresh:/data fresh:/tmp",
    "cp a b",
    "cp fresh:/nope /tmp",
    "cp nope:/x /tmp",
    "cp fresh:/data/file /no/where/x",
    "cp fresh:/data/file /no/where/",
    "cp fresh:/data/file /dev/null",
    "cp fresh:/data /etc/passwd",
    "cp /etc fresh:/data/file",
    "cp /etc/passwd fresh:/nope/x",
    "cp /etc/passwd fresh:/nope/",
    "cp /etc/passwd fresh:/dev/null",
    "cp - fresh:/data/file",
    "cp -L fresh:/tmp/dangling /tmp",
    "cp a",
]


@pytest.mark.parametrize("line", SAME)
def test_the_same_output(peopled: Daemon, line: str) -> None:
    theirs, ours = both(peopled.host, peopled.root, line)
    assert ageless(ours[1]) == ageless(theirs[1])
    assert ours[0] == theirs[0], ours[2]
    assert bool(ours[2]) == bool(theirs[2]), ours[2]
    if theirs[2].startswith("Error"):
        assert ours[2].splitlines()[0] == theirs[2].splitlines()[0]


def cp(daemon: Daemon, program: list[str], *words: str, cwd: Path) -> int:
    done = subprocess.run(
        [*program, "cp", *words],
        env={"PATH": os.environ["PATH"], "HOME": str(daemon.root), "DOCKER_HOST": daemon.host},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=cwd,
        timeout=60,
        check=False,
    )
    return done.returncode


PROGRAMS = {"docker": [DOCKER], "sampan": [sys.executable, "-m", "sampan.cli"]}


def tree(top: Path) -> dict[str, Any]:
    """Every name below a directory, with kind, mode, target or content, and time of change."""
    found: dict[str, Any] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content: Any = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        mtime = int(status.st_mtime) if stat.S_ISREG(status.st_mode) else 0
        found[str(path.relative_to(top))] = (oct(status.st_mode), content, mtime)
    return found


OUT = [
    "fresh:/data/file .",
    "fresh:/data/file here/",
    "fresh:/data/file here/renamed",
    "fresh:/data/file there",
    "fresh:/data .",
    "fresh:/data here",
    "fresh:/data/ here/",
    "fresh:/data/. here",
    "fresh:/data new",
    "fresh:/data/. new",
    "fresh:/data/ new/",
    "fresh:/tmp/abs .",
    "fresh:/tmp/rel/ .",
    "-L fresh:/tmp/abs .",
    "-L fresh:/tmp/abs here/followed",
    "-L fresh:/tmp/rel .",
    "-L fresh:/tmp/rel new",
    "fresh:/data/file new/",
    "fresh:/data there",
    "fresh:data/file ./with:colon",
    "fresh:/etc new",
    "fresh:/data/sub/deep here/sub",
    "fresh:/data/file here/sub",
]


@pytest.mark.parametrize("line", OUT)
def test_the_same_files_come_out(peopled: Daemon, tmp_path: Path, line: str) -> None:
    results = {}
    for name, program in PROGRAMS.items():
        top = tmp_path / name
        (top / "here/sub").mkdir(parents=True)
        (top / "here/kept").write_text("kept")
        (top / "there").write_text("a file")
        os.utime(top / "here/kept", (1, 1))
        os.utime(top / "there", (1, 1))
        code = cp(peopled, program, *shlex.split(line), cwd=top)
        results[name] = (code, tree(top))
    assert results["sampan"] == results["docker"]


IN = [
    "file fresh:/tmp/T",
    "file fresh:/tmp/T/",
    "file fresh:/tmp/T/renamed",
    "file fresh:/tmp/T/taken",
    "dir fresh:/tmp/T",
    "dir/ fresh:/tmp/T/",
    "dir/. fresh:/tmp/T",
    "dir fresh:/tmp/T/new",
    "dir/. fresh:/tmp/T/new",
    "dir fresh:/tmp/T/taken",
    "file fresh:/tmp/T/dir",
    "link fresh:/tmp/T",
    "-L link fresh:/tmp/T",
    "-L link fresh:/tmp/T/name",
    "linkdir fresh:/tmp/T",
    "linkdir/ fresh:/tmp/T",
    "-L linkdir fresh:/tmp/T",
    "-a file fresh:/tmp/T",
    "./with:colon fresh:/tmp/T",
    "file fresh:/tmp/T/way",
    "nope fresh:/tmp/T/renamed/",
    "file fresh:/tmp/T/no/such",
    "long fresh:/tmp/T",
]


@pytest.mark.parametrize("line", IN)
def test_the_same_files_go_in(peopled: Daemon, tmp_path: Path, line: str) -> None:
    (tmp_path / "dir/deep").mkdir(parents=True)
    (tmp_path / "dir/deep/file").write_text("deep")
    (tmp_path / "file").write_text("content")
    (tmp_path / "file").chmod(0o640)
    os.chown(tmp_path / "file", 5, 6)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "linkdir").symlink_to("dir")
    (tmp_path / "with:colon").write_text("c")
    (tmp_path / "long" / ("x" * 120) / ("y" * 120)).mkdir(parents=True)
    (tmp_path / "long" / ("é" * 60)).write_text("ü")
    os.close(os.open(os.fsencode(tmp_path) + b"/long/\xff\xfe", os.O_CREAT, 0o644))
    results = {}
    for name, program in PROGRAMS.items():
        setup = "rm -rf /tmp/T /tmp/W; mkdir -p /tmp/T/dir /tmp/W; echo x >/tmp/T/taken;"
        made = peopled.docker(
            "exec", "fresh", "sh", "-c", f"{setup} ln -s /tmp/W /tmp/T/way; ls /tmp/T"
        )
        assert made.returncode == 0, made.stderr
        code = cp(peopled, program, *shlex.split(line), cwd=tmp_path)
        answer = peopled.request("GET", "/containers/fresh/archive", query={"path": "/tmp"})
        with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
            shown = {}
            for info in archive:
                file = archive.extractfile(info) if info.isreg() else None
                content = file.read() if file is not None else info.linkname
                mtime = int(info.mtime) if info.isreg() and "taken" not in info.name else 0
                shown[info.name] = (info.type, info.mode, info.uid, info.gid, mtime, content)
        results[name] = (code, shown)
    if line.startswith("nope"):  # Docker's client says nothing of a source that is not there
        assert results["sampan"][0] == 1
        return
    assert results["sampan"] == results["docker"]


def test_a_link_that_leads_up_is_copied(peopled: Daemon, tmp_path: Path) -> None:
    """Docker's client refuses it, and with it the whole directory it is in."""
    assert cp(peopled, PROGRAMS["sampan"], "fresh:/tmp/rel", ".", cwd=tmp_path) == 0
    assert os.readlink(tmp_path / "rel") == "../data"


def sampan(daemon: Daemon, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*PROGRAMS["sampan"], *words],
        env={"PATH": os.environ["PATH"], "HOME": str(daemon.root), "DOCKER_HOST": daemon.host},
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_streams(peopled: Daemon) -> None:
    done = sampan(peopled, "cp", "-", "fresh:/tmp", data=tar_of({"piped": b"through"}))
    assert done.returncode == 0, done.stderr
    done = sampan(peopled, "cp", "fresh:/tmp/piped", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert archive.getnames() == ["piped"]
    exported = sampan(peopled, "export", "fresh")
    with tarfile.open(fileobj=io.BytesIO(exported.stdout)) as archive:
        assert "bin/busybox" in archive.getnames()


def test_an_export_to_a_file_is_whole_or_not_there(peopled: Daemon, tmp_path: Path) -> None:
    done = sampan(peopled, "export", "-o", f"{tmp_path}/out.tar", "fresh")
    assert done.returncode == 0, done.stderr
    assert tarfile.is_tarfile(tmp_path / "out.tar")
    done = sampan(peopled, "export", "-o", f"{tmp_path}/no/out.tar", "fresh")
    assert (done.returncode, b"does not exist" in done.stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.tar"]


class _Body:
    """An answer's body, as the client reads it."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read1(self, count: int) -> bytes:
        return self._file.read(count)


@pytest.mark.parametrize(
    "entries",
    [
        {"d": None, "d/../../evil": b"x"},
        {"d": None, "other/evil": b"x"},
        {"d": None, "dd": b"x"},
        {"d": None, "d/l": "/tmp", "d/l/evil": b"x"},
        {"d": None, "d/l": "..", "d/l/evil": b"x"},
        {"d": "/tmp", "d/evil": b"x"},
        {"/": None, "/../evil": b"x"},
        {".": None, "../evil": b"x"},
    ],
    ids=str,
)
def test_a_hostile_archive_of_a_container_is_refused(
    tmp_path: Path, entries: dict[str, Any]
) -> None:
    """What a container sends must not leave the place it is copied to."""
    target = tmp_path / "in/here"
    target.parent.mkdir()
    body: Any = _Body(tar_of(entries))
    with pytest.raises(InvalidArgument, match="not below"):
        _unpack(_Counting(body), str(target))
    assert [path.name for path in tmp_path.rglob("evil")] == []
    assert not os.path.exists("/tmp/evil")


def test_a_volumes_life(peopled: Daemon) -> None:
    made = sampan(peopled, "volume", "create", "--label", "a=b", "-o", "type=tmpfs",
                  "-o", "device=tmpfs", "mine")  # fmt: skip
    assert (made.returncode, made.stdout) == (0, b"mine\n"), made.stderr
    listed = sampan(peopled, "volume", "ls", "-q", "--filter", "label=a")
    assert listed.stdout == b"mine\n"
    shown = sampan(peopled, "volume", "inspect", "-f", "{{.Options.type}}", "mine")
    assert shown.stdout == b"tmpfs\n"
    anonymous = sampan(peopled, "volume", "create").stdout.decode().strip()
    assert re.fullmatch("[0-9a-f]{64}", anonymous)
    pruned = sampan(peopled, "volume", "prune", "-f").stdout.decode()
    assert pruned == f"Deleted Volumes:\n{anonymous}\n\nTotal reclaimed space: 0B\n"
    assert sampan(peopled, "volume", "rm", "mine").stdout == b"mine\n"
    refused = sampan(peopled, "volume", "create", "--type", "block", "x1")
    assert (refused.returncode, b"swarm" in refused.stderr) == (125, True)


@pytest.fixture
def canned(tmp_path: Path) -> Iterator[Canned]:
    server = Canned(tmp_path / "s")
    yield server
    server.close()


def test_disk_usage_is_counted_alike(canned: Canned, tmp_path: Path) -> None:
    """Of what no test has at hand: a build cache, sizes that are not known, restarting ones."""
    image = {
        "Id": "sha256:" + "1" * 64, "ParentId": "", "RepoTags": ["a:1"], "RepoDigests": [],
        "Created": 1_700_000_000, "Size": 10**9, "SharedSize": 10**8, "VirtualSize": 10**9,
        "Labels": {}, "Containers": 1,
    }  # fmt: skip
    container = {
        "Id": "2" * 64, "Names": ["/c"], "Image": "a:1", "ImageID": image["Id"], "Command": "x",
        "Created": 1_700_000_000, "Ports": [], "Labels": {}, "State": "exited", "Status": "Up",
        "SizeRw": 12345, "SizeRootFs": 10**9, "NetworkSettings": {"Networks": {}}, "Mounts": [],
    }  # fmt: skip
    volume = {"Name": "v", "Driver": "local", "Scope": "local", "Mountpoint": "/m", "Labels": None,
              "Options": None}  # fmt: skip
    canned.answers["GET /system/df"] = (
        200,
        {
            "LayersSize": 3 * 10**9,
            "Images": [image, {**image, "RepoTags": None, "Containers": 0, "Size": 5}],
            "Containers": [container, {**container, "State": "restarting", "SizeRw": 655}],
            "Volumes": [
                {**volume, "Name": "b10", "UsageData": {"Size": 100, "RefCount": 0}},
                {**volume, "Name": "b9", "UsageData": {"Size": 300, "RefCount": 2}},
                {**volume, "Name": "a", "UsageData": {"Size": -1, "RefCount": -1}},
            ],
            "BuildCache": [],
        },
    )
    for line in ("system df", "system df -v", "system df --format json"):
        theirs, ours = both(canned.host, tmp_path, line)
        assert ours[1] == theirs[1]
        assert ours[0] == theirs[0] == 0, ours[2]
