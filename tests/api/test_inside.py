"""What a program finds inside its container is what it finds in dockerd's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sampan.kernel.cgroups import detect

if TYPE_CHECKING:
    from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root


def said(daemon: Daemon, *command: str, **settings: Any) -> str:
    container = daemon.run(*command, **settings)
    code = daemon.wait(container)
    text = daemon.logs(container)
    assert code == 0, text
    return text


def file(daemon: Daemon, container: str, path: str) -> str:
    """The tar with one file of a container's, as text."""
    answer = daemon.get(f"/containers/{container}/archive?path={path}")
    assert answer.status == 200, answer.body
    return answer.body.decode()


def environment(daemon: Daemon, container: str, **settings: Any) -> dict[str, str]:
    """What an exec has."""
    words = {"Cmd": ["sh", "-c", "env > /env.txt"], **settings}
    instance = daemon.post(f"/containers/{container}/exec", words).json()["Id"]
    daemon.post(f"/exec/{instance}/start", {"Detach": True, "Tty": settings.get("Tty", False)})
    daemon.wait_for(lambda: daemon.get(f"/exec/{instance}/json").json()["ExitCode"] == 0)
    lines = file(daemon, container, "/env.txt").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_any_user_reads_the_containers_limits(daemon: Daemon) -> None:
    place = "memory.max" if detect().kind == "v2" else "memory/memory.limit_in_bytes"
    settings: dict[str, Any] = {"User": "4321:4321", "HostConfig": {"Memory": 64 << 20}}
    assert said(daemon, "cat", f"/sys/fs/cgroup/{place}", **settings).strip() == str(64 << 20)


SERVE = """
import socket
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    socket.socket(socket.AF_INET, kind).bind(("0.0.0.0", 80))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
print("served")
"""


def test_any_user_listens_on_every_port_and_pings(daemon: Daemon) -> None:
    settings: dict[str, Any] = {"User": "4321", "HostConfig": {"CapDrop": ["ALL"]}}
    assert said(daemon, "python3", "-c", SERVE, **settings) == "served\n"


def test_the_users_own_kernel_parameters_go_over_ours(daemon: Daemon) -> None:
    place = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    settings: dict[str, Any] = {
        "HostConfig": {"Sysctls": {"net.ipv4.ip_unprivileged_port_start": "1000"}}
    }
    assert said(daemon, "cat", place, **settings) == "1000\n"
    container = daemon.create("true", **settings)
    shown = daemon.get(f"/containers/{container}/json").json()["HostConfig"]
    assert shown["Sysctls"] == {"net.ipv4.ip_unprivileged_port_start": "1000"}
    plain = daemon.create("true")
    assert "Sysctls" not in daemon.get(f"/containers/{plain}/json").json()["HostConfig"]


def test_a_read_only_container_cannot_write_to_its_names(daemon: Daemon) -> None:
    script = "for f in hosts hostname resolv.conf; do ! echo x >> /etc/$f || exit 1; done"
    said(daemon, "bash", "-c", script, HostConfig={"ReadonlyRootfs": True})
    said(daemon, "bash", "-c", "echo 192.0.2.1 x >> /etc/hosts")


def test_a_read_only_container_has_its_working_directory(daemon: Daemon) -> None:
    settings: dict[str, Any] = {"WorkingDir": "/not/yet", "User": "4321"}
    assert said(daemon, "pwd", **settings, HostConfig={"ReadonlyRootfs": True}) == "/not/yet\n"
    script = "pwd; ! touch x"
    text = said(daemon, "sh", "-c", script, WorkingDir="/a", HostConfig={"ReadonlyRootfs": True})
    assert text.startswith("/a\n")


def test_the_machines_ipc_comes_with_its_message_queues(daemon: Daemon) -> None:
    rows = said(daemon, "cat", "/proc/self/mountinfo", HostConfig={"IpcMode": "host"}).splitlines()
    assert [row for row in rows if row.split()[4] == "/dev/mqueue" and " - mqueue " in row]


@pytest.mark.parametrize(
    ("own", "asked", "term"),
    [
        ([], {"Tty": True}, "xterm"),
        (["TERM=vt52"], {"Tty": True}, "vt52"),
        (["TERM=vt52"], {"Tty": True, "Env": ["TERM=vt100"]}, "vt100"),
        (["TERM=vt52"], {}, "vt52"),
        ([], {}, None),
    ],
)
def test_an_execs_terminal_is_its_own(
    daemon: Daemon, own: list[str], asked: dict[str, Any], term: str | None
) -> None:
    container = daemon.run("sleep", "600", Tty=True, Env=own)
    assert environment(daemon, container, **asked).get("TERM") == term
    daemon.post(f"/containers/{container}/kill")


def test_a_container_that_could_not_start_has_no_process(daemon: Daemon) -> None:
    container = daemon.create("/no/such/program")
    assert daemon.post(f"/containers/{container}/start").status == 400
    state = daemon.state(container)
    assert (state["Pid"], state["ExitCode"], state["Status"]) == (0, 127, "created")


def test_inspection_leaves_out_what_was_not_asked_for(daemon: Daemon) -> None:
    container = daemon.create(
        "true",
        Healthcheck={"Test": ["CMD", "true"], "Interval": 10**9},
        HostConfig={"Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Mode": 448}}]},
    )
    shown = daemon.get(f"/containers/{container}/json").json()
    assert shown["Config"]["Healthcheck"] == {"Test": ["CMD", "true"], "Interval": 10**9}
    assert shown["HostConfig"]["Mounts"] == [
        {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Mode": 448}}
    ]


# -- in another's network --------------------------------------------------------------------------


def test_who_is_in_anothers_network_has_its_names(daemon: Daemon) -> None:
    daemon.run(
        *("sh", "-c", "echo 192.0.2.9 written >> /etc/hosts; exec sleep 600"),
        name="donor",
        Hostname="lender",
        Domainname="example",
        HostConfig={"Dns": ["192.0.2.53"], "ExtraHosts": ["friend:192.0.2.7"]},
    )
    daemon.wait_for(lambda: "written" in file(daemon, "donor", "/etc/hosts"))
    script = "cat /etc/hosts /etc/resolv.conf /etc/hostname; hostname; echo $HOSTNAME"
    script += "; cat /proc/sys/kernel/domainname; echo 192.0.2.10 back >> /etc/hosts"
    settings = {"HostConfig": {"NetworkMode": "container:donor"}}
    text = said(daemon, "sh", "-c", script, name="guest", **settings)
    for part in ("192.0.2.7\tfriend", "192.0.2.9 written", "nameserver 192.0.2.53"):
        assert part in text
    assert text.endswith("lender\nlender\nlender\nexample\n")
    assert "192.0.2.10 back" in file(daemon, "donor", "/etc/hosts")
    guest = daemon.get("/containers/guest/json").json()
    donor = daemon.get("/containers/donor/json").json()
    for key in ("HostsPath", "HostnamePath", "ResolvConfPath"):
        assert guest[key] == donor[key]
    assert guest["Config"]["Hostname"] == "lender"
    # What is not there any more is not looked for.
    daemon.delete("/containers/donor", force=1)
    assert "localhost" in file(daemon, "guest", "/etc/hosts")


@pytest.mark.parametrize(
    ("fields", "host", "words"),
    [
        ({"Hostname": "x"}, {}, "hostname and the network mode"),
        ({"ExposedPorts": {"80/tcp": {}}}, {}, "port exposing and the container type network"),
        ({}, {"Dns": ["192.0.2.1"]}, "dns and the network mode"),
        ({}, {"ExtraHosts": ["a:192.0.2.1"]}, "custom host-to-IP mapping and the network mode"),
    ],
    ids=["hostname", "expose", "dns", "add-host"],
)
def test_names_of_its_own_are_refused_in_anothers_network(
    daemon: Daemon, fields: dict[str, Any], host: dict[str, Any], words: str
) -> None:
    body = {
        "Image": "host",
        "Cmd": ["true"],
        **fields,
        "HostConfig": {"NetworkMode": "container:x", **host},
    }
    answer = daemon.post("/containers/create", body)
    assert answer.status == 400
    assert f"conflicting options: {words}" in answer.message
