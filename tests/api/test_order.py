"""Maps come in the order of their keys, as Go writes them, and objects as Docker has their fields.

Who prints what the daemon answers (``docker inspect`` does) sees the same from one day to the next.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root

GIVEN = {"zed": "1", "abe": "2", "mid": "3", "Big": "4"}
MAPS = (
    "Annotations", "Attributes", "AuxiliaryAddresses", "Config", "DriverOpts", "ExposedPorts",
    "Labels", "Networks", "Options", "PortBindings", "Ports", "StorageOpt", "Sysctls", "Tmpfs",
    "Volumes",
)  # fmt: skip


def maps(value: Any, name: str = "") -> dict[str, list[list[str]]]:
    """The keys of each map in an answer, by the name of the field it stands in."""
    found: dict[str, list[list[str]]] = {}
    if isinstance(value, dict):
        # The container's own Config is an object; the log driver's is a map.
        if name in MAPS and "Image" not in value and "Entrypoint" not in value:
            found[name] = [list(value)]
        for key, item in value.items():
            for one, keys in maps(item, key).items():
                found.setdefault(one, []).extend(keys)
    elif isinstance(value, list):
        for item in value:
            for one, keys in maps(item).items():
                found.setdefault(one, []).extend(keys)
    return found


def sorted_maps(value: Any) -> set[str]:
    """The fields of an answer with a map of several keys, all of which are in order."""
    found = maps(value)
    wrong = {name: keys for name, each in found.items() for keys in each if keys != sorted(keys)}
    assert not wrong
    return {name for name, each in found.items() if any(len(keys) > 1 for keys in each)}


def test_maps_are_in_order(daemon: Daemon) -> None:
    since = time.time_ns()
    options = {
        "com.docker.network.driver.mtu": "1400",
        "com.docker.network.bridge.enable_icc": "true",
    }
    networks = {"zzz": "10.98.1", "aaa": "10.98.2"}
    for name, net in networks.items():
        kept = {"z": f"{net}.9", "a": f"{net}.8"}
        ipam = {"Config": [{"Subnet": f"{net}.0/24", "AuxiliaryAddresses": kept}]}
        body = {"Name": name, "Labels": GIVEN, "Options": options, "IPAM": ipam}
        assert daemon.post("/networks/create", body).status == 201
    volume = {"Name": "vol", "Labels": GIVEN, "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}}
    assert daemon.post("/volumes/create", volume).status == 201
    container = daemon.run(
        *("sleep", "1000"),
        name="one",
        Labels=GIVEN,
        Volumes={"/v2": {}, "/v1": {}},
        ExposedPorts={"9/udp": {}, "10/tcp": {}},
        HostConfig={
            "NetworkMode": "zzz",
            "Annotations": GIVEN,
            "PortBindings": {"9/udp": [{"HostPort": ""}], "10/tcp": [{"HostPort": ""}]},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
            "Tmpfs": {"/t2": "", "/t1": ""},
            "Sysctls": {"net.ipv4.ip_forward": "1", "net.core.somaxconn": "100"},
        },
    )
    assert daemon.post("/networks/aaa/connect", {"Container": container}).status == 200
    changes = ["LABEL z=1 a=2 B=3", "VOLUME /v2 /v1", "EXPOSE 9/udp 10/tcp"]
    asked = {"fromSrc": "-", "repo": "labelled", "tag": "1", "changes": changes}
    empty = bytes(1024)  # a tar's end
    assert daemon.post("/images/create", empty, **asked).status == 200

    assert sorted_maps(daemon.get("/containers/one/json").json()) == {
        "Annotations", "Config", "ExposedPorts", "Labels", "Networks", "PortBindings", "Ports",
        "Sysctls", "Tmpfs", "Volumes",
    }  # fmt: skip
    assert sorted_maps(daemon.get("/containers/json").json()) == {
        "Annotations", "Labels", "Networks",
    }  # fmt: skip
    for path in ("/networks/zzz", "/networks"):
        assert sorted_maps(daemon.get(path).json()) == {"AuxiliaryAddresses", "Labels", "Options"}
    for path in ("/volumes/vol", "/volumes"):
        assert sorted_maps(daemon.get(path).json()) == {"Labels", "Options"}
    image = daemon.get("/images/labelled:1/json").json()
    assert sorted_maps(image) == {"ExposedPorts", "Labels", "Volumes"}
    assert sorted_maps(daemon.get("/images/json").json()) == {"Labels"}
    told = daemon.get("/events", since=f"{since / 1e9:.9f}", until=f"{time.time():.9f}").body
    assert sorted_maps([json.loads(line) for line in told.splitlines()]) == {"Attributes"}
