"""Every field of a container's creation, as the API's document lists them: none is ignored.

Three walks. What we read is what the document describes. Each field is refused by name, or changes
the runtime's specification, or is shown to be acted on by a test that is named here. And each
value inside of an object is one of the document's too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sampan.engine import config
from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.reading import ONLY, REFUSED
from tests.compatibility.document import document
from tests.engine.test_spec import spec

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]

STRUCTS: dict[str, type[msgspec.Struct]] = {
    "ContainerConfig": ContainerConfig,
    "HostConfig": HostConfig,
    "HostConfig.BlkioDeviceReadBps": config.ThrottleDevice,
    "HostConfig.BlkioWeightDevice": config.WeightDevice,
    "HostConfig.Devices": config.DeviceMapping,
    "HostConfig.LogConfig": config.LogConfig,
    "HostConfig.Mounts": config.MountRequest,
    "HostConfig.Mounts.BindOptions": config.BindOptions,
    "HostConfig.Mounts.ImageOptions": config.ImageOptions,
    "HostConfig.Mounts.TmpfsOptions": config.TmpfsOptions,
    "HostConfig.Mounts.VolumeOptions": config.VolumeOptions,
    "HostConfig.Mounts.VolumeOptions.DriverConfig": config.DriverConfig,
    "HostConfig.RestartPolicy": config.RestartPolicy,
    "HostConfig.Ulimits": config.Ulimit,
    "ContainerConfig.Healthcheck": config.Healthcheck,
}

OLDER = {"HostConfig": {"KernelMemory"}}
"""Fields that the document has dropped and old clients send."""

# A value of each field that changes what the runtime is told.
TOLD: dict[str, Any] = {
    "Cmd": ["false"],
    "Domainname": "d",
    "Entrypoint": ["sh"],
    "Env": ["A=1"],
    "Hostname": "h",
    "Tty": True,
    "User": "7",
    "Volumes": {"/v": {}},
    "WorkingDir": "/w",
    "HostConfig.Annotations": {"a": "b"},
    "HostConfig.Binds": ["/a:/b"],
    "HostConfig.BlkioDeviceReadBps": "block",
    "HostConfig.BlkioDeviceReadIOps": "block",
    "HostConfig.BlkioDeviceWriteBps": "block",
    "HostConfig.BlkioDeviceWriteIOps": "block",
    "HostConfig.BlkioWeight": 500,
    "HostConfig.BlkioWeightDevice": "block",
    "HostConfig.CapAdd": ["SYS_ADMIN"],
    "HostConfig.CapDrop": ["ALL"],
    "HostConfig.CgroupnsMode": "host",
    "HostConfig.ConsoleSize": [3, 4],
    "HostConfig.CpuPeriod": 50_000,
    "HostConfig.CpuQuota": 20_000,
    "HostConfig.CpuRealtimePeriod": 1_000_000,
    "HostConfig.CpuRealtimeRuntime": 1_000,
    "HostConfig.CpuShares": 5,
    "HostConfig.CpusetCpus": "0",
    "HostConfig.CpusetMems": "0",
    "HostConfig.DeviceCgroupRules": ["c 7:* rwm"],
    "HostConfig.Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n"}],
    "HostConfig.GroupAdd": ["7"],
    "HostConfig.IpcMode": "host",
    "HostConfig.KernelMemoryTCP": 1 << 24,
    "HostConfig.MaskedPaths": ["/m"],
    "HostConfig.Memory": 1 << 24,
    "HostConfig.MemoryReservation": 1 << 24,
    "HostConfig.MemorySwap": -1,
    "HostConfig.MemorySwappiness": 5,
    "HostConfig.Mounts": [{"Type": "tmpfs", "Target": "/t"}],
    "HostConfig.NanoCpus": 500_000_000,
    "HostConfig.NetworkMode": "host",
    "HostConfig.OomKillDisable": True,
    "HostConfig.OomScoreAdj": 7,
    "HostConfig.PidMode": "host",
    "HostConfig.PidsLimit": 7,
    "HostConfig.Privileged": True,
    "HostConfig.ReadonlyPaths": ["/r"],
    "HostConfig.ReadonlyRootfs": True,
    "HostConfig.SecurityOpt": ["no-new-privileges"],
    "HostConfig.ShmSize": 1 << 20,
    "HostConfig.Sysctls": {"kernel.msgmax": "7"},
    "HostConfig.Tmpfs": {"/t": ""},
    "HostConfig.UTSMode": "host",
    "HostConfig.Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
}

# Of the others: a test that shows what the field does.
SHOWN = {
    "AttachStderr": "api/test_create_fields.py test_an_inspection_can_be_created_again",
    "AttachStdin": "api/test_create_fields.py test_an_inspection_can_be_created_again",
    "AttachStdout": "api/test_create_fields.py test_an_inspection_can_be_created_again",
    "ExposedPorts": "api/test_lists.py test_filters_in_both_encodings",
    "Healthcheck": "api/test_health.py test_a_container_becomes_healthy_falls_ill_and_recovers",
    "Image": "api/test_images.py test_an_imported_root_runs",
    "Labels": "api/test_lists.py test_filters_in_both_encodings",
    "MacAddress": "network/test_default_bridge.py "
    "test_a_mac_address_can_be_asked_for_and_an_ip_address_cannot",
    "NetworkDisabled": "api/test_containers.py test_a_container_whose_network_is_disabled",
    "OpenStdin": "api/test_streams.py test_a_half_close_ends_the_input_and_not_the_output",
    "Shell": "api/test_health.py test_a_check_of_words_is_its_own_shells",
    "StdinOnce": "api/test_streams.py test_a_half_close_ends_the_input_and_not_the_output",
    "StopSignal": "api/test_containers.py test_a_stop_signal_of_the_containers_own_is_used",
    "StopTimeout": "api/test_containers.py test_a_stop_waits_as_long_as_the_container_says",
    "HostConfig.AutoRemove": "api/test_containers.py "
    "test_remove_on_exit_is_told_to_who_waits_for_it",
    "HostConfig.CgroupParent": "api/test_containers.py "
    "test_a_containers_group_lies_where_it_was_asked_for",
    "HostConfig.ContainerIDFile": "api/test_create_fields.py "
    "test_an_inspection_can_be_created_again",
    "HostConfig.Dns": "api/test_run.py test_options_have_their_effect",
    "HostConfig.DnsOptions": "api/test_run.py test_options_have_their_effect",
    "HostConfig.DnsSearch": "api/test_run.py test_options_have_their_effect",
    "HostConfig.ExtraHosts": "api/test_run.py test_options_have_their_effect",
    "HostConfig.Init": "api/test_run.py test_options_have_their_effect",
    "HostConfig.Isolation": "api/test_create_fields.py test_a_host_value_that_cannot_be_is_named",
    "HostConfig.LogConfig": "api/test_logs.py "
    "test_the_local_driver_rotates_compresses_and_is_read_as_one",
    "HostConfig.Links": (
        "network/test_links.py test_on_the_default_network_it_has_lines_and_variables"
    ),
    "HostConfig.PortBindings": "network/test_ports.py test_who_reaches_which_port",
    "HostConfig.PublishAllPorts": "network/test_ports.py "
    "test_any_port_and_a_range_are_chosen_of_what_is_free",
    "HostConfig.RestartPolicy": "api/test_restarts.py "
    "test_a_failure_is_answered_as_often_as_was_said",
    "HostConfig.Runtime": "api/test_create_fields.py test_a_host_value_that_cannot_be_is_named",
    "HostConfig.VolumeDriver": "api/test_create_fields.py "
    "test_a_host_value_that_cannot_be_is_named",
    "HostConfig.VolumesFrom": "engine/test_mounts.py test_mounts_of_another_container_come_along",
}


def fields() -> Iterator[str]:
    yield from ContainerConfig.__struct_encode_fields__
    yield from (f"HostConfig.{name}" for name in HostConfig.__struct_encode_fields__)


def properties(schema: Any) -> dict[str, Any]:
    """An object's fields in the document; of a list, those of its members."""
    found: dict[str, Any] = {}
    if "$ref" in schema:
        definitions = (document() or {})["definitions"]
        return properties(definitions[schema["$ref"].rpartition("/")[2]])
    for part in schema.get("allOf", ()):
        found |= properties(part)
    if "items" in schema:
        found |= properties(schema["items"])
    found |= schema.get("properties", {})
    return found


@pytest.mark.skipif(document() is None, reason="the API's document is not here")
def test_what_is_read_is_what_the_document_describes() -> None:
    definitions = (document() or {})["definitions"]
    for place, kind in STRUCTS.items():
        top, *below = place.split(".")
        described = properties(definitions[top])
        for name in below:
            described = properties(described[name])
        known = set(kind.__struct_encode_fields__) - OLDER.get(place, set())
        assert known == set(described), place


def test_each_field_is_refused_told_or_shown() -> None:
    ways = [set(REFUSED) | set(ONLY), set(TOLD), set(SHOWN)]
    assert set(fields()) == set.union(*ways)
    assert sum(map(len, ways)) == len(set.union(*ways)), "one way for each"


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may have no block device: which numbers one has is not the question here."""
    monkeypatch.setattr("sampan.engine.resources._numbers", lambda path: (8, 0))


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("place", sorted(TOLD))
def test_a_field_reaches_the_runtime(place: str) -> None:
    value = TOLD[place]
    if value == "block":
        kind = "Weight" if "Weight" in place else "Rate"
        value = [{"Path": "/dev/x", kind: 100}]
    head, _, name = place.rpartition(".")
    base: dict[str, Any] = {"Tty": True} if name == "ConsoleSize" else {}
    given = {head: {name: value}} if head else {name: value}
    assert spec(**{**base, **given}) != spec(**base)


@pytest.mark.parametrize("place", sorted(SHOWN))
def test_a_test_shows_the_rest(place: str) -> None:
    path, name = SHOWN[place].split()
    source = (TESTS / path).read_text(encoding="utf-8")
    assert f"def {name}(" in source
    field = place.rpartition(".")[2]
    flags = {
        "Dns": "--dns", "DnsOptions": "--dns-option", "DnsSearch": "--dns-search",
        "ExtraHosts": "--add-host", "Init": "--init",
    }  # fmt: skip
    assert flags.get(field, field) in source
