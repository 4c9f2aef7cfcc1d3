"""What our flags ask of the daemon, beside what Docker's client asks with the same words.

Both send their request to a server that only writes it down; what they leave to the daemon
(null, empty, zero) is the same as not saying it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.canned import Canned, Request
from tests.daemon_fixture import DOCKER

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not DOCKER, reason="needs Docker's client"),
]

CREATE = [
    "",
    "-i",
    "-t",
    "-it",
    "-a stdin -a STDERR -i",
    "--name n --hostname h --domainname d -u 1:2 -w rel",
    "--entrypoint e",
    "--entrypoint=",
    "-e A=1 -e HOME -e ABSENT -e B=",
    "--env-file env -e A=2 --env-file bom",
    "-l a -l b=c -l d==e --label-file labels",
    "--annotation a=b --annotation c",
    "--read-only --init --privileged --rm -P",
    "--init=false --oom-kill-disable",
    "--stop-signal 3 --stop-timeout 0",
    "--restart on-failure:3",
    "--restart always",
    "--restart=no --rm",
    "-m 64m --memory-swap -1 --memory-reservation 1g --memory-swappiness 0",
    "--memory-swap 128MiB -m 1.5k",
    "-c 512 --cpus 1.5 --cpu-period 1000 --cpu-quota 500 --cpuset-cpus 0-1 --cpuset-mems 0",
    "--cpu-rt-period 100 --cpu-rt-runtime 50 --pids-limit -1 --oom-score-adj -500 --shm-size 1m",
    "--cpus .5 --blkio-weight 500 --blkio-weight-device /dev/a:100",
    "--device-read-bps /dev/a:1mb --device-write-bps /dev/b:1k",
    "--device-read-iops /dev/a:10 --device-write-iops /dev/b:20",
    "--device /dev/null --device /dev/null:/dev/x --device /dev/null:/dev/x:r",
    "--device /dev/null:rw",
    "--device vendor.com/class=name --device-cgroup-rule c_1:3_rwm",
    "--ulimit nofile=1:2 --ulimit core=3 --ulimit memlock=-1:-1",
    "--sysctl net.core.somaxconn=1 --storage-opt size=1G",
    "--cap-add net_admin --cap-add ALL --cap-drop chown --group-add z --group-add 7",
    "--ipc host --pid container:x --uts host --userns host --cgroupns private --cgroup-parent /x",
    "--runtime r --volume-driver d --volumes-from a:ro --volumes-from b",
    "--log-driver local --log-opt max-size=1m --log-opt compress",
    "--security-opt seccomp=sec.json --security-opt no-new-privileges --security-opt label:disable",
    "--security-opt systempaths=unconfined --security-opt seccomp=unconfined",
    "--security-opt apparmor=x --security-opt no-new-privileges=true",
    "--health-cmd x_y --health-interval 1m30s --health-retries 3 --health-timeout 1.5s",
    "--health-start-period 2h --health-start-interval 100ms",
    "--no-healthcheck",
    "-v ./rel:/rel -v ../up:/up -v /anon -v named:/n:ro -v /a:/b:ro,z",
    "--tmpfs /q:size=1m --tmpfs /r",
    "--mount type=bind,src=./x,dst=/y,ro,bind-propagation=rprivate,bind-recursive=readonly",
    "--mount type=bind,source=/x,destination=/y,readonly=false,bind-nonrecursive",
    "--mount type=bind,src=/x,dst=/z,bind-recursive=disabled,consistency=cached",
    "--mount type=bind,src=/x,dst=/z,ro,bind-recursive=writable,bind-propagation=rslave",
    "--mount type=volume,src=v,dst=/v,volume-label=a=b,volume-opt=type=nfs,volume-opt=o=x=y",
    "--mount src=v,dst=/v,volume-driver=d,volume-nocopy,volume-subpath=s",
    '--mount type=tmpfs,"dst=/t,x",tmpfs-size=1m,tmpfs-mode=1770',
    "--mount type=image,src=i,dst=/i,image-subpath=k --mount type=odd,dst=/x",
    "-p 80 -p 127.0.0.1:8000-8001:80-81/udp -p [::1]:9:9 -p published=5,target=6 -p 10-13:1",
    "-p 127.0.0.1::90 -p published=5,target=6,protocol=udp -p 1000-1002",
    "--expose 100-102/udp --expose 7 -p 7:7",
    "--network none",
    "--network host",
    "--net container:x",
    "--network foo --ip 1.2.3.4 --ip6 ::1 --network-alias al --net-alias am --link a:b",
    "--network foo --mac-address 92:d0:c6:0a:29:33 --link-local-ip 169.254.1.1",
    "--network name=foo,alias=x,alias=y,driver-opt=a=b,ip=1.2.3.4,gw-priority=3 --network bar",
    "--network name=foo,mac-address=92:d0:c6:0a:29:33,link-local-ip=169.254.1.1",
    "--link a --link b:c",
    "--dns 1.1.1.1 --dns ::1 --dns-opt x --dns-option y --dns-search z",
    "--add-host a:1.2.3.4 --add-host b=1.2.3.4 --add-host c:::1 --add-host d=[::1]",
    "--add-host e:host-gateway",
    "--platform linux/amd64",
    "--disable-content-trust",
]
# Prunes, and what else says its wish in the query.
OTHERS = [
    "system prune -f",
    "system prune -f -a",
    "system prune -f --volumes",
    "system prune -f --filter label=a --filter until=24h",
    "builder prune -f",
    "builder prune -af --keep-storage 1g --filter until=24h",
    "container prune -f",
    "container prune -f --filter until=24h --filter label!=b",
    "rmi c",
    "rmi -f --no-prune c",
    "rm c",
    "rm -f -v c",
    "rm -l c",
    "stop c",
    "stop -t 3 -s INT c",
    "stop --time 3 c",
    "stop -t -1 c",
    "restart c",
    "restart -t 0 -s 9 c",
    "kill c",
    "kill -s USR1 c",
    "pause c",
    "unpause c",
    "rename c d",
    "tag c repo/name:tag",
    "tag c localhost:5000/name",
    "start c",
    "wait c",
    "ps",
    "ps -a -s",
    "ps -n 3",
    "ps -l",
    "ps -n -1",
    "ps -f status=exited -f label=a=b -f name=c",
    "ps --format {{.Size}}",
    "images",
    "images -a c",
    "images -f dangling=true -f label=a",
    "history c",
    "history --platform linux/amd64 c",
    "image inspect c",
    "image inspect --platform linux/arm/v7 c",
    "container inspect -s c",
    "inspect --type network c",
    "inspect --type volume c",
    "network ls -f driver=host -f dangling=true",
    "network inspect -v c",
    "events --since 100 --until 200.5",
    "events --since 2024-01-02T03:04:05Z --until 2024-01-02T03:04:05.678+02:00 -f type=image",
    "events --since 2024-01-02 --until 2024-01-02T03:04",
    "events --since 2024-01-02Z --until 2024-01-02T03-05:00",
    "port c",
    "info",
    "version",
    "save c d",
    "save --platform linux/amd64 c",
]
NETWORK = [
    "create n",
    "create n --subnet 10.0.0.0/8,fd00::/64 --gateway 10.0.0.1 --gateway fd00::1 --label a=b",
    "create n --subnet 10.0.0.0/8 --ip-range 10.1.0.0/16 --aux-address a=10.0.0.5 -o c=d -d x",
    "create n --ipv6 --ipv4=false --internal --attachable --ingress --config-only --scope local",
    "create n --ipam-driver x --ipam-opt e=f --config-from other",
    "connect n c",
    "connect n c --alias a,b --driver-opt a=b --gw-priority 3 --ip 1.2.3.4 --ip6 ::1",
    "connect --link x:y --link-local-ip 169.254.1.1 n c",
    "disconnect n c",
    "disconnect -f n c",
    "rm n",
    "prune -f",
    "prune -f --filter until=24h --filter label=a",
]
UPDATE = [
    "-m 64m --memory-swap -1 --memory-reservation 1g",
    "--cpus 2 --cpu-period 1 --cpu-quota 2 --cpu-rt-period 3 --cpu-rt-runtime 4 -c 5",
    "--cpuset-cpus 0 --cpuset-mems 0 --blkio-weight 10 --pids-limit 5 --restart on-failure:2",
]
# Wrong in themselves: both clients say so, ask the daemon nothing, and end alike.
WRONG = [
    "--restart on-failure:x",
    "--restart :3",
    "--rm --restart always",
    "--mount foo",
    "--mount type=bind",
    "--mount dst=/x,foo=1",
    "--mount type=bind,src=/x,dst=/y,bind-recursive=readonly,ro",
    "--mount type=bind,src=/x,dst=/y,bind-recursive=odd",
    "--mount type=tmpfs,dst=/x,volume-nocopy",
    "--mount type=tmpfs,dst=/x,tmpfs-mode=99",
    "--mount dst=/x,ro=perhaps",
    "--ulimit foo",
    "--ulimit foo=1",
    "--ulimit nofile=3:2",
    "--ulimit nofile=-1:5",
    "--device a:b:c:d",
    "--device /dev/x:/y:q",
    "-e =x",
    "--env-file /nope",
    "--env-file broken",
    "-l =x",
    "--label-file /nope",
    "--add-host foo",
    "--dns foo",
    "-p foo",
    "-p 1:1/foo",
    "-p 3-1:1",
    "-p 1-2:1-3",
    "-p 99999",
    "--expose foo",
    "--health-retries -1",
    "--health-timeout -1s",
    "--health-interval 5",
    "--no-healthcheck --health-cmd x",
    "--memory-swappiness 101",
    "--memory foo",
    "--memory -1",
    "--cpus foo",
    "--cpus 1.0000000001",
    "--blkio-weight 70000",
    "--blkio-weight-device a:1",
    "--device-read-bps x",
    "--storage-opt x",
    "--sysctl x",
    "--log-driver none --log-opt a=b",
    "--security-opt foo",
    "--security-opt seccomp=/nope",
    "-a foo",
    "--mac-address foo",
    "--network=",
    "--network name=a,foo=b",
    "--network-alias x",
    "--stop-timeout x",
    "--shm-size -1",
    "--pull sometimes",
    "--nope",
    "-Z",
    "--name",
    "--init=perhaps",
]
# Fields whose keys are the user's: an empty value there is a value.
_MAPS = {
    "Annotations",
    "AuxiliaryAddresses",
    "Config",
    "DriverOpts",
    "EndpointsConfig",
    "ExposedPorts",
    "Labels",
}
_MAPS |= {"Options", "PortBindings", "StorageOpt", "Sysctls", "Tmpfs", "Volumes"}


@pytest.fixture(scope="module")
def canned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canned]:
    place = tmp_path_factory.mktemp("canned")
    server = Canned(place / "s")
    server.answers["POST /containers/create"] = (201, {"Id": "a" * 64, "Warnings": []})
    server.answers["POST /containers/c/update"] = (200, {"Warnings": []})
    server.answers["POST /networks/create"] = (201, {"Id": "n" * 64, "Warning": ""})
    server.answers["POST /networks/n/connect"] = (200, None)
    server.answers["POST /networks/n/disconnect"] = (200, None)
    server.answers["GET /networks/n"] = (200, {"Name": "n"})
    server.answers["DELETE /networks/n"] = (204, None)
    for kind in ("containers", "images", "volumes", "build"):
        server.answers[f"POST /{kind}/prune"] = (200, {"SpaceReclaimed": 7})
    for verb in ("start", "stop", "restart", "kill", "pause", "unpause", "rename"):
        server.answers[f"POST /containers/c/{verb}"] = (204, None)
    server.answers["POST /containers/c/wait"] = (200, {"StatusCode": 3})
    server.answers["DELETE /containers/c"] = (204, None)
    server.answers["DELETE /images/c"] = (200, [{"Untagged": "c"}])
    server.answers["POST /images/c/tag"] = (201, None)
    server.answers["POST /networks/prune"] = (200, {"NetworksDeleted": ["one", "two"]})
    yield server
    server.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both clients run: the files that flags name."""
    directory = tmp_path_factory.mktemp("place")
    (directory / "env").write_text("# c\nA=1\n\nABSENT\nHOME\n  C=x y \nD=\n")
    (directory / "bom").write_bytes(b"\xef\xbb\xbfE=f\n")
    (directory / "broken").write_text("A B=1\n")
    (directory / "labels").write_text("# c\na=1\nb\n")
    (directory / "sec.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW", "x": [1, 2]}')
    return directory


def said(value: Any, name: str = "") -> Any:
    """A request without what says nothing."""
    if isinstance(value, list):
        return [said(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: said(item, key) for key, item in value.items()}
    if name in _MAPS:
        return {k: v for k, v in kept.items() if not (name == "EndpointsConfig" and v == {})}
    return {key: item for key, item in kept.items() if item not in (None, "", [], {}, 0, False)}


class Asked:
    def __init__(self, canned: Canned, place: Path, program: list[str], words: list[str]) -> None:
        canned.requests.clear()
        self.done = subprocess.run(
            [*program, *words],
            env={"PATH": os.environ["PATH"], "HOME": str(place), "DOCKER_HOST": canned.host},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=place,
        )
        self.requests = [r for r in canned.requests if r.path != "/_ping"]


OURS = [sys.executable, "-m", "sampan.cli"]


def words(text: str) -> list[str]:
    return [
        word.replace("_", " ") if "c_1" in word or "x_y" in word else word for word in text.split()
    ]


def body(asked: Asked) -> Any:
    assert asked.done.returncode == 0, asked.done.stderr
    (request,) = asked.requests
    document = said(request.json())
    host = document.get("HostConfig", {})
    if host.get("MemorySwappiness") == -1:  # Docker's way to say nothing
        del host["MemorySwappiness"]
    if host.get("RestartPolicy") == {"Name": "no"}:
        del host["RestartPolicy"]
    host.pop("ConsoleSize", None)
    # Docker's client keeps these in maps, whose order is chance.
    for part, name in ((document, "Env"), (host, "Binds")):
        if name in part:
            part[name].sort()
    return request.method, request.path, document


@pytest.mark.parametrize("flags", CREATE)
def test_create_asks_what_docker_asks(canned: Canned, place: Path, flags: str) -> None:
    line = ["create", *words(flags), "img", "cmd", "--flag"]
    theirs = body(Asked(canned, place, [DOCKER], line))
    assert body(Asked(canned, place, OURS, line)) == theirs


@pytest.mark.parametrize("flags", UPDATE)
def test_update_asks_what_docker_asks(canned: Canned, place: Path, flags: str) -> None:
    line = ["update", *words(flags), "c"]
    theirs = body(Asked(canned, place, [DOCKER], line))
    assert body(Asked(canned, place, OURS, line)) == theirs


def meant(request: Request) -> Any:
    document = said(request.json()) if request.body else {}
    for pool in (document.get("IPAM") or {}, document):
        if "Config" in pool:  # kept in a map by Docker's client: the order is chance
            pool["Config"].sort(key=lambda config: config["Subnet"])
    return request.method, request.path, request.filters(), document


@pytest.mark.parametrize("line", OTHERS)
def test_other_commands_ask_what_docker_s_ask(canned: Canned, place: Path, line: str) -> None:
    theirs, ours = (Asked(canned, place, program, line.split()) for program in ([DOCKER], OURS))
    assert ours.done.returncode == theirs.done.returncode
    assert [query(request) for request in ours.requests] == [
        query(request) for request in theirs.requests
    ]


def query(request: Request) -> Any:
    """Method, path and parameters; those that say nothing are left out."""
    parameters = {
        name: [value.removeprefix("docker.io/") for value in values]
        for name, values in urllib.parse.parse_qs(request.target.partition("?")[2]).items()
        if name != "filters" and values not in (["0"], ["false"])
    }
    return request.method, request.path, parameters, request.filters()


@pytest.mark.parametrize("flags", NETWORK)
def test_networks_are_asked_for_as_docker_asks(canned: Canned, place: Path, flags: str) -> None:
    theirs, ours = (
        Asked(canned, place, program, ["network", *flags.split()]) for program in ([DOCKER], OURS)
    )
    assert theirs.done.returncode == ours.done.returncode == 0, ours.done.stderr
    assert ours.done.stdout == theirs.done.stdout
    asked = [[meant(request) for request in side.requests] for side in (theirs, ours)]
    asked[0] = [request for request in asked[0] if request[0] != "GET"]  # rm looks first
    assert asked[1] == asked[0]


@pytest.mark.parametrize("flags", WRONG)
def test_what_docker_finds_wrong_we_do_too(canned: Canned, place: Path, flags: str) -> None:
    line = ["create", *words(flags)]
    line += [] if flags == "--name" else ["img"]
    theirs, ours = (Asked(canned, place, program, line) for program in ([DOCKER], OURS))
    assert theirs.done.returncode == 125, theirs.done.stderr
    assert ours.done.returncode == 125 and not ours.requests
    assert ours.done.stderr.startswith("sampan: ")
