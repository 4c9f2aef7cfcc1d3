"""The body of create: read strictly, refused by name, tolerant where Go's decoder is."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.engine.reading import ONLY, REFUSED, read_create
from sampan.errors import InvalidArgument, NotSupported, SampanError


def body(**fields: Any) -> dict[str, Any]:
    return {"Image": "host", "Cmd": ["true"], **fields}


def test_nulls_are_absent_and_case_does_not_matter() -> None:
    request = read_create(
        {"image": "host", "CMD": None, "Env": None, "hostconfig": {"memory": 7, "Binds": None}}
    )
    assert request.config.image == "host"
    assert request.config.cmd is None
    assert request.host_config.memory == 7
    assert request.host_config.binds is None
    request = read_create(
        body(
            hostConfig={"portBindings": {"80/tcp": [{"hostPort": "8080", "hostip": "127.0.0.1"}]}},
            networkingConfig={"endpointsConfig": {"Net": {"aliases": ["a"], "ipamConfig": None}}},
        )
    )
    (binding,) = request.host_config.port_bindings["80/tcp"]
    assert (binding.host_ip, binding.host_port) == ("127.0.0.1", "8080")
    assert request.endpoints["Net"].aliases == ["a"]


def test_a_command_may_be_a_string() -> None:
    config = read_create(body(Cmd="one", Entrypoint="two")).config
    assert (config.cmd, config.entrypoint) == (["one"], ["two"])


@pytest.mark.parametrize("place", sorted(REFUSED))
def test_every_refused_field_is_refused_by_its_name_and_accepted_empty(place: str) -> None:
    head, _, name = place.rpartition(".")
    values: list[Any] = [1, True, "x", ["x"], {"x": "y"}, [{}]]
    errors = []
    for value in values:
        fields = {name: value} if not head else {head: {name: value}}
        try:
            read_create(body(**fields))
        except NotSupported as error:
            errors.append(str(error))
        except InvalidArgument:
            continue  # of another type than this field
    assert errors
    assert all(error.startswith(f"{place} is not supported: ") for error in errors)


@pytest.mark.parametrize("place", sorted(ONLY))
def test_fields_with_one_meaning_refuse_others(place: str) -> None:
    fields: Any = "other"
    for name in reversed(place.split(".")):
        fields = {name: fields}
    with pytest.raises(NotSupported, match=place.replace(".", r"\.")):
        read_create(body(**fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"Tty": "yes"}, "Config: Tty: Expected `bool`"),
        ({"Env": "A=1"}, "Config: Env"),
        ({"HostConfig": {"CapAdd": "ALL"}}, "HostConfig: CapAdd"),
        ({"HostConfig": {"Ulimits": [{"Soft": 1}]}}, "HostConfig: Ulimits"),
        ({"HostConfig": []}, "HostConfig: expected an object"),
        ({"HostConfig": {"Mystery": 1}}, "HostConfig.Mystery is not a field"),
        ({"Mystery": "x"}, "Mystery is not a field"),
        (
            {"HostConfig": {"PortBindings": {"80/tcp": [{"Port": "1"}]}}},
            "HostConfig.PortBindings.80/tcp[0].Port is not a field",
        ),
        ({"NetworkingConfig": {"Networks": {"net": {}}}}, "NetworkingConfig.Networks is not"),
        ({"NetworkingConfig": {"EndpointsConfig": {"net": 3}}}, "EndpointsConfig.net: expected"),
        (
            {"NetworkingConfig": {"EndpointsConfig": {"net": {"Mystery": "a"}}}},
            "EndpointsConfig.net.Mystery is not a field",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SampanError) as caught:
        read_create(body(**fields))
    assert words in str(caught.value)


def test_what_the_client_sends_by_default_is_accepted() -> None:
    read_create(
        body(
            Healthcheck={"Test": ["NONE"]},
            OnBuild=None,
            HostConfig={
                "NetworkMode": "default",
                "MemorySwappiness": -1,
                "ConsoleSize": [24, 80],
                "PidsLimit": 0,
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
                "LogConfig": {"Type": "", "Config": {}},
                "Mystery": None,
                "Another": 0,
            },
            NetworkingConfig={"EndpointsConfig": {"default": {"Links": None, "MacAddress": ""}}},
        )
    )
