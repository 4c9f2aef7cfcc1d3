"""Docker's client and ours print the same bytes, and end with the same status.

Against one daemon of ours, for what a daemon can show; and against a server that answers as told,
for what no test can wait for: ages of months, hundreds of ports, names of every shape.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.canned import Canned
from tests.daemon_fixture import DOCKER, Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.peer,
    pytest.mark.skipif(not DOCKER, reason="needs Docker's client"),
]

PS_FORMATS = [
    "table",
    "json",
    "raw",
    "pretty",
    "{{json .}}",
    "{{.ID}}: {{.Names}}\\t{{.Image}}\\n{{.Command}}",
    "table {{.Names}}\\t{{.Mounts}}\\t{{.LocalVolumes}}\\t{{.Networks}}\\t{{.Size}}",
    'table {{.ID}}\\t{{.Label "a.b-c"}}\\t{{.Labels}}\\t{{.CreatedAt}}\\t{{.RunningFor}}',
    "table {{upper .Names}}\\t{{json .ID}}\\t{{.State}}\\t{{.Status}}",
    "table{{.Names}} {{.Ports}}",
    'table {{range split .Names ","}}{{.}}{{end}}',
    'table {{if eq .Names "one"}}yes{{else}}no{{end}}',
    '{{printf "%-8s|%q|%v" .Names .Names .Names}} {{len .Names}} {{pad .Names 2 1}}|',
    '{{.Label "k"}} {{.Platform}} {{truncate .Names 2}} {{title "hello wORLD"}}',
    "{{$x := .Names}}{{with .Ports}}{{.}}{{else}}{{$x}}{{end}} {{- /* no */ -}} !",
    '{{and .Names .Ports}}|{{or .Ports .Names}}|{{not .Ports}}|{{eq .Names "x" "one"}}',
    '{{join (split .Names "o") "-"}}{{index (split .Names "n") 0}}{{println .Names}}',
    '{{html .Command}} {{js .Command}} {{urlquery .Command}} {{print 1 2 "x" 3}}',
    "{{.Nope}}",
    "{{.Names",
    "{{frobnicate}}",
    "{{.Names.Deeper}}",
    "  {{.Names}}  ",
]
READ_ONLY = [
    "ps",
    "ps -a",
    "ps -as",
    "ps -a --no-trunc",
    "ps -aq",
    "ps -aq --no-trunc",
    "ps -n 2",
    "ps -l",
    "ps -q --format {{.ID}}",
    "ps -a --filter status=created",
    "ps -a --filter label=k --filter name=o",
    "ps -a --filter nope=1",
    "ps -a --filter name",
    "ps x",
    "container ls -a",
    "container list -a",
    *(f"ps -a --format {shlex.quote(text)}" for text in PS_FORMATS),
    "inspect one two",
    "inspect one nope",
    "inspect nope",
    "inspect -s one",
    "inspect --type container one",
    "inspect --type image one",
    "inspect --type odd one",
    "inspect host",
    "inspect -f json one two",
    "inspect -f '{{.Name}} {{.State.Status}} {{.State.Pid}}' one nope two",
    "inspect -f '{{json .NetworkSettings}} {{json .HostConfig.Binds}}' one two",
    "inspect -f '{{json .HostConfig.Tmpfs}} {{json .Config.Cmd}} {{json .Args}}' one two",
    "network inspect -f '{{json .}}' bridge none",
    "inspect -f '{{json .State}} {{json .Config.Labels}} {{json .Mounts}}' one two",
    "inspect -f '{{.Config.Labels}}{{.Config.Labels.k}}{{.Config.Labels.no}}' one two",
    'inspect -f \'{{index .Config.Labels "a.b-c"}}{{index .Config.Labels "no"}}\' one',
    "inspect -f '{{.HostConfig.Binds}}{{.HostConfig.CapAdd}}{{.HostConfig.PortBindings}}' one two",
    "inspect -f '{{.Mounts}}{{.Args}}{{.Config.Cmd}}{{.Config.Entrypoint}}{{.ExecIDs}}' one two",
    "inspect -f '{{.State.Health}}{{.Config.Healthcheck}}{{.HostConfig.Init}}{{.SizeRw}}' one",
    "inspect -f '{{.HostConfig.RestartPolicy}}{{.HostConfig.LogConfig}}{{.Created}}' one",
    "inspect -f '{{.HostConfig.Tmpfs}}{{.Config.Volumes}}{{.NetworkSettings.Ports}}' one two",
    "inspect -f '{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}' one",
    "inspect -f '{{range .Config.Env}}{{println .}}{{end}}' one",
    "inspect -f '{{with .HostConfig}}{{.NetworkMode}}{{.Memory}}{{end}}' one",
    "inspect -f '{{.Nope}}' one two",
    "inspect -f '{{.Id}}' nope",
    "inspect -f '{{.ID}} {{.HostConfig.NanoCPUs}}{{.HostConfig.DNS}}' one",
    "inspect -f '{{.State.Health.Status}}' one",
    "inspect -f '{{.Nope' one",
    "container inspect one",
    "container inspect nope",
    "image inspect host",
    "image inspect nope host",
    "image inspect -f '{{.RepoTags}}{{.Config.Env}}{{.RootFS.Layers}}{{.Config.Cmd}}' host",
    "images",
    "images -a --digests",
    "images -q",
    "images -q --no-trunc",
    "images --no-trunc",
    "images --format json",
    "images --format raw",
    "images --digests --format raw",
    "images --format 'table {{.ID}}\\t{{.CreatedAt}}\\t{{.VirtualSize}}\\t{{.Containers}}'",
    "images --format '{{.Repository}}:{{.Tag}}@{{.Digest}} {{.SharedSize}} {{.UniqueSize}}'",
    "images host",
    "images host:latest",
    "images nope",
    "images --filter dangling=true",
    "images --filter nope=1",
    "image ls",
    "history host",
    "history --no-trunc host",
    "history -q host",
    "history -H=false host",
    "history --format json host",
    "history --format '{{.ID}}|{{.CreatedAt}}|{{.CreatedSince}}|{{.CreatedBy}}|{{.Size}}' host",
    "history nope",
    "port one",
    "port one 80",
    "port nope",
    "wait two",
    "wait nope",
    "events --since 1h --until 0s",
    "events --since 1h --until 0s --format json",
    "events --since 1h --until 0s --filter event=create --format '{{.Action}} {{.ID}} {{.Time}}'",
    "events --since 1h --until 0s --format '{{.Actor.Attributes.name}} {{json .}}'",
    "network ls",
    "network ls -q",
    "network ls --no-trunc",
    "network ls --format json",
    "network ls --format 'table {{.ID}}\\t{{.Driver}}\\t{{.Internal}}\\t{{.Labels}}'",
    "network ls --filter driver=host",
    "network inspect host none",
    "network inspect nope",
    "network inspect -f '{{.Name}} {{.Driver}} {{.Labels}} {{.Containers}}' host",
    "info -f '{{.ID}} {{.NCPU}} {{.Driver}} {{.SecurityOptions}} {{.Swarm.LocalNodeState}}'",
    "info -f '{{json .Runtimes}}'",
    "version -f '{{.Server.Version}} {{.Server.APIVersion}}{{.Server.Os}}'",
    "stop nope",
    "kill nope",
    "kill -s NOPE one",
    "rm nope",
    "rm -f nope",
    "rm -f nope nopf",
    "rm one",
    "rmi nope",
    "rmi -f nope",
    "tag nope x",
    "rename nope x",
    "rename one two",
    "pause nope",
    "top nope",
    "top two",
    "top one -o pid,args",
    "stats --no-stream nope",
    "stats --no-stream --format '{{.Name}} {{.PIDs}} {{.NetIO}}' one",
    "unpause one",
    "start nope",
    "update --memory 64m nope",
    "exec nope true",
    "exec -it one true",
    "exec one sh -c 'exit 7'",
    "exec one nope",
    "attach two",
    "attach nope",
    "start -a one two",
    "logs nope",
    "logs one",
    "run -it --network none host true",
    "run -d -a stdin --network none host true",
    "create --name one --network none host true",
    "run --name one --network none host true",
    "run --rm --network none host nope",
    "run --rm --network none host /etc",
    "run --rm --network none host sh -c 'echo out; echo err >&2; exit 5'",
    "run --rm --network none --entrypoint echo host a b",
    "run --rm --network none -e A=1 -e TERM host sh -c 'echo $A$TERM'",
    "run --rm --network none host sh -c 'kill -TERM $$'",
    "run --rm --network none -a stdout host sh -c 'echo out; echo err >&2'",
    "run --pull never --network none nope true",
    "create --cidfile /etc/passwd host",
    "run --cidfile /etc/passwd host",
    "run --rm --network none -l 'a b=c' host true",
    "run --rm --network none --device /nonexistent host true",
    "cp one:/etc/hostname ''",
    "cp '' one:/tmp",
    "events --since 1h --until 0s --format '{{.Nope}}'",
    "context ls -q",
    "rm",
    "start",
    "container foo",
    "nope",
    "container prune",
]
AGE = re.compile(r"(\d+ seconds?|Less than a second|About a minute|\d+ minutes)( ago)?")


def ageless(text: str) -> str:
    """The two look a moment after each other: ages differ by one, and so do columns' widths."""
    return re.sub(" {3,}", "   ", AGE.sub("AGE", text)) if AGE.search(text) else text


def both(
    host: str, home: Path, line: str, environment: dict[str, str] | None = None
) -> list[tuple[int, str, str]]:
    """Status, output and errors of Docker's client and of ours, for the same words."""
    results = []
    for program in ([DOCKER], [sys.executable, "-m", "sampan.cli"]):
        done = subprocess.run(
            [*program, *shlex.split(line)],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "DOCKER_HOST": host,
                "TERM": "xterm",
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        results.append((done.returncode, done.stdout, done.stderr))
    return results


@pytest.fixture(scope="module")
def peopled(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Daemon:
    """The daemon with one container that runs and two that do not."""
    place = tmp_path_factory.mktemp("bound-by-a-long-name")
    daemon.run(
        *("sh", "-c", 'echo "<a>&b"; exec sleep 600'),
        name="one",
        Labels={"k": "v", "x": "<&>", "a.b-c": "d e"},
        Env=["A=b"],
        HostConfig={"Binds": [f"{place}:/in:ro"], "Tmpfs": {"/t": "size=1m"}},
        Volumes={"/v": {}},
    )
    daemon.create("echo", "new\nline", 'qu"ote', "tab\té", name="two")
    daemon.wait(daemon.run("sh", "-c", "exit 3", name="three"))
    return daemon


@pytest.mark.parametrize("line", READ_ONLY)
def test_the_same_against_a_daemon(peopled: Daemon, line: str) -> None:
    theirs, ours = both(peopled.host, peopled.root, line)
    assert ageless(ours[1]) == ageless(theirs[1])
    assert ours[0] == theirs[0], ours[2]
    assert bool(ours[2]) == bool(theirs[2])
    if theirs[2].startswith("Error"):
        assert ours[2].splitlines()[0].lower().replace("sampan: ", "error: ") == (
            theirs[2].splitlines()[0].lower()
        ) or ours[2].startswith("Error response") == theirs[2].startswith("Error response")


DAY = 86400


def _container(number: int, **more: Any) -> dict[str, Any]:
    return {
        "Id": f"{number:064x}",
        "Names": [f"/name{number}"],
        "Image": "image:tag",
        "ImageID": f"sha256:{number:064x}",
        "Command": "command " + "x" * number,
        "Created": 0,
        "Ports": [],
        "Labels": {},
        "State": "running",
        "Status": "Up 3 hours",
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": {"Networks": {"bridge": {}}},
        "Mounts": [],
        **more,
    }


def _ports(*texts: str) -> list[dict[str, Any]]:
    """``address:public->private/type`` as the API has it."""
    found = []
    for text in texts:
        outer, _, inner = text.rpartition(">")
        private, _, kind = inner.partition("/")
        port: dict[str, Any] = {"PrivatePort": int(private), "Type": kind or "tcp"}
        if outer:
            address, _, public = outer.rpartition(":")
            port |= {"IP": address, "PublicPort": int(public)}
        found.append(port)
    return found


@pytest.fixture(scope="module")
def canned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canned]:
    place = tmp_path_factory.mktemp("canned")
    server = Canned(place / "s")
    now = int(time.time())
    ages = [90 * 60 + 5, 3 * 3600, 47 * 3600, 3 * DAY, 13 * DAY, 20 * DAY, 70 * DAY, 900 * DAY]
    containers = [_container(n, Created=now - age) for n, age in enumerate(ages, 1)]
    containers += [
        _container(20, Image="sha256:" + f"{20:064x}", Names=["/a", "/b/link"], Command=""),
        _container(21, Image=f"{21:064x}", Names=["/x/link", "/y"]),
        _container(22, Image="repo@sha256:" + "f" * 64),
        _container(23, Image="", Status="Exited (0) 2 weeks ago (unhealthy)", State="exited"),
        _container(24, Ports=_ports("0.0.0.0:80>80", ":::80>80", "53/udp", "443")),
        _container(25, Ports=_ports(*(f"0.0.0.0:{p}>{p}" for p in range(8000, 8010)))),
        _container(26, Ports=_ports("1.2.3.4:81>80", "1.2.3.4:82>81", "9", "10", "12", "11/udp")),
        _container(27, Ports=_ports("0.0.0.0:5>1", "0.0.0.0:7>2", ":::5>1", "127.0.0.1:9>2/udp")),
        _container(28, Labels={"b": "2", "a": "1", "c": "with, comma"}),
        _container(29, NetworkSettings={"Networks": {"only": {}}}, SizeRw=1, SizeRootFs=10**9),
        _container(30, SizeRw=999, SizeRootFs=1000, Command="déjà \x1b[31m ünïcode ✓ \u200b"),
        _container(31, SizeRw=123456789, SizeRootFs=999999),
        _container(
            32,
            Mounts=[
                {"Type": "volume", "Name": "a" * 20, "Driver": "local", "Source": "/x"},
                {"Type": "volume", "Name": "short", "Driver": "other", "Source": "/y"},
                {"Type": "bind", "Source": "/a/long/path/of/the/host", "Destination": "/d"},
            ],
        ),
    ]
    server.answers["GET /containers/json"] = (200, containers)
    server.answers["GET /images/json"] = (
        200,
        [
            _image(1, now - 5 * DAY, ["a:1", "a:2"], []),
            _image(1, now - 5 * DAY, ["localhost:5000/b:x"], []),
            _image(2, now - 100 * DAY, ["c:1"], ["c@sha256:" + "1" * 64, "c@sha256:" + "2" * 64]),
            _image(3, now - 8000, [], []),
            _image(4, 0, [], ["e@sha256:" + "3" * 64]),
            _image(5, now - 9000, ["<none>:<none>"], ["<none>@<none>"]),
            _image(6, now - 9000, None, None, Size=999_999_999, SharedSize=5, Containers=2),
        ],
    )
    server.answers["GET /images/x/history"] = (
        200,
        [
            _layer("sha256:" + "a" * 64, now - 3 * DAY, 'CMD ["x"]\t# tab', 0, ["x:1"]),
            _layer("<missing>", now - 800 * DAY, "RUN " + "long " * 20, 123456, None),
            {**_layer("<missing>", 0, "", 10**9, None), "Comment": "a comment"},
        ],
    )
    server.answers["GET /containers/p/json"] = (
        200,
        {
            "Id": "p" * 64,
            "Name": "/p",
            "NetworkSettings": {
                "Ports": {
                    "80/tcp": [
                        {"HostIp": "0.0.0.0", "HostPort": "8080"},
                        {"HostIp": "::", "HostPort": "8080"},
                    ],
                    "9/udp": [{"HostIp": "127.0.0.1", "HostPort": "9"}],
                    "443/tcp": None,
                    "1000/tcp": [{"HostIp": "", "HostPort": "1"}],
                }
            },
        },
    )
    server.answers["GET /containers/used/stats"] = (200, _used(1))
    server.answers["GET /containers/idle/stats"] = (200, _used(0))
    server.answers["GET /containers/t/top"] = (
        200,
        {
            "Titles": ["UID", "PID", "CMD"],
            "Processes": [["root", "1", "a long command line x y z"]],
        },
    )
    server.answers["POST /containers/prune"] = (
        200,
        {"ContainersDeleted": ["one", "two"], "SpaceReclaimed": 123456},
    )
    server.answers["POST /networks/prune"] = (200, {"NetworksDeleted": ["net"]})
    server.answers["POST /volumes/prune"] = (200, {"VolumesDeleted": ["v"], "SpaceReclaimed": 1})
    deleted = [{"Untagged": "a:1"}, {"Deleted": "sha256:1"}]
    server.answers["POST /images/prune"] = (
        200,
        {"ImagesDeleted": deleted, "SpaceReclaimed": 5000},
    )
    server.answers["POST /build/prune"] = (200, {"CachesDeleted": ["c"], "SpaceReclaimed": 0})
    volume: dict[str, Any] = {
        "Name": "v",
        "Driver": "local",
        "Scope": "local",
        "Mountpoint": "/m",
        "Labels": None,
    }
    volume |= {"Options": {"o": "size=1m"}, "CreatedAt": "2024-01-02T03:04:05Z"}
    server.answers["GET /volumes/v"] = (200, volume)
    images = [_image(1, now - 9000, ["b:2", "b:1", "a:1"], [], SharedSize=0, Containers=2)]
    images += [_image(2, now - 9000, [], [], SharedSize=5, Containers=0)]
    usage = {"UsageData": {"Size": 5, "RefCount": 1}}
    server.answers["GET /system/df"] = (
        200,
        {"LayersSize": 5, "Images": images, "Volumes": [volume | usage], "Containers": []},
    )
    server.answers["DELETE /images/x"] = (200, deleted)
    server.answers["POST /containers/u/update"] = (200, {"Warnings": ["mind this"]})
    server.answers["POST /containers/w/wait"] = (200, {"StatusCode": 137})
    server.answers["GET /networks"] = (
        200,
        [
            {"Name": name, "Id": name * 20, "Driver": "bridge", "Scope": "local", **more}
            for name, more in (
                ("zed", {"Created": "2024-01-02T03:04:05.678Z", "EnableIPv6": True}),
                ("abe", {"Labels": {"b": "2"}, "Internal": True}),
                ("Mid", {"EnableIPv4": True, "Created": "0001-01-01T00:00:00Z"}),
            )
        ],
    )
    yield server
    server.close()


def _used(share: int) -> dict[str, Any]:
    """Figures of a container, as the API has them (cgroup v1's names)."""

    def cpu(total: int) -> dict[str, Any]:
        usage = {"total_usage": total * share, "usage_in_usermode": 1, "percpu_usage": [1, 2]}
        return {"cpu_usage": usage, "system_cpu_usage": total * 3, "online_cpus": 2}

    return {
        "read": "2026-01-02T03:04:05Z",
        "id": "a" * 64,
        "name": "/used" if share else "/idle",
        "pids_stats": {"current": 7 * share},
        "cpu_stats": cpu(2_000_000_000),
        "precpu_stats": cpu(1_000_000_000),
        "memory_stats": {
            "usage": 123_456_789 * share,
            "limit": 25_000_000_000 * share,
            "stats": {"total_inactive_file": 1_000_000 * share, "inactive_file": 5},
        },
        "networks": {"eth0": {"rx_bytes": 1500 * share, "tx_bytes": 999}},
        "blkio_stats": {
            "io_service_bytes_recursive": [
                {"major": 8, "minor": 0, "op": "Read", "value": 4096 * share},
                {"major": 8, "minor": 0, "op": "write", "value": 10**9 * share},
                {"major": 8, "minor": 0, "op": "Total", "value": 5},
            ]
        },
    }


def _image(number: int, created: int, tags: Any, digests: Any, **more: Any) -> dict[str, Any]:
    return {
        "Id": f"sha256:{number:064x}",
        "ParentId": "",
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": created,
        "Size": 1234567 * number,
        "SharedSize": -1,
        "Labels": None,
        "Containers": -1,
        **more,
    }


def _layer(identity: str, created: int, by: str, size: int, tags: Any) -> dict[str, Any]:
    return {
        "Id": identity,
        "Created": created,
        "CreatedBy": by,
        "Size": size,
        "Tags": tags,
        "Comment": "",
    }


CANNED = [
    "ps",
    "ps -s",
    "ps --no-trunc",
    "ps -q",
    "ps --format json",
    "ps --format '{{json .}}'",
    "ps --format 'table {{.Names}}\\t{{.Ports}}\\t{{.Mounts}}\\t{{.LocalVolumes}}'",
    "ps --no-trunc --format '{{.Names}}|{{.Mounts}}|{{.Labels}}|{{.Size}}|{{.Networks}}'",
    "ps --format '{{.RunningFor}} / {{.CreatedAt}}'",
    "images",
    "images --digests",
    "images -q",
    "images --no-trunc",
    "images --format json",
    "images --digests --format json",
    "images --format '{{.Repository}} {{.Tag}} {{.Digest}}'",
    "images --format '{{.CreatedSince}} {{.CreatedAt}} {{.Size}} {{.VirtualSize}} {{.UniqueSize}}'",
    "history x",
    "history --no-trunc x",
    "history -q x",
    "history -H=false x",
    "history --format json x",
    "port p",
    "port p 80",
    "port p 80/tcp",
    "port p 9/udp",
    "port p 9",
    "port p 443",
    "port p x",
    "top t",
    "top t -o pid",
    "stats --no-stream used",
    "stats --no-stream used idle",
    "stats --no-stream --no-trunc used",
    "stats --no-stream --format json used",
    "stats --no-stream --format '{{.Container}} {{.Name}} {{.CPUPerc}} {{.MemPerc}}' used idle",
    "container prune -f",
    "container prune",
    "system prune -f",
    "system prune -f -a --volumes",
    "builder prune",
    "builder prune --all",
    "builder prune -f",
    "system prune",
    "system prune -a --volumes",
    "system prune --filter label=a=b",
    "system prune --volumes --filter until=1h",
    "system df",
    "system df -v",
    "system df -v --format json",
    "volume inspect -f '{{.Name}} {{.Status}} {{.UsageData}} {{.Labels}} {{.ClusterVolume}}' v",
    "network prune -f",
    "network prune",
    "network ls",
    "network ls --format json",
    "rmi x",
    "rmi x nope",
    "update -m 1g u",
    "update u",
    "wait w w",
]


@pytest.mark.parametrize("line", CANNED)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_the_same_of_what_a_server_says(
    canned: Canned, tmp_path: Path, line: str, zone: str
) -> None:
    theirs, ours = both(canned.host, tmp_path, line, {"TZ": zone})
    assert ours[1] == theirs[1]
    assert ours[0] == theirs[0], ours[2]


def test_formats_of_the_configuration_are_used(canned: Canned, tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    settings = (
        '{"psFormat": "table {{.Names}}", "imagesFormat": "{{.ID}}", "HttpHeaders": {"X": "y"}}'
    )
    (tmp_path / ".docker/config.json").write_text(settings)
    for line in ("ps", "ps -q", "images", "images -q", "ps --format {{.ID}}"):
        canned.requests.clear()
        theirs, ours = both(canned.host, tmp_path, line)
        assert ours[:2] == theirs[:2]
        assert all(request.headers["x"] == "y" for request in canned.requests)
