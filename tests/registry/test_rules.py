"""Challenges, proxies, addresses, platforms: the tables behind a request."""

from __future__ import annotations

import asyncio

import pytest

from sampan.errors import InvalidArgument
from sampan.oci.image import Descriptor
from sampan.oci.platform import Platform
from sampan.oci.selection import select
from sampan.registry.client.auth import parse_challenges
from sampan.registry.client.hosts import Hosts
from sampan.registry.client.proxies import Proxies
from sampan.registry.policy import Policy, check_insecure, check_mirror


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"',
            [("bearer", {"realm": "https://a/t", "service": "s",
                         "scope": "repository:a/b:pull,push"})],
        ),
        (
            'Bearer realm="a\\"b" , error=invalid_token, Basic realm="c, d"',
            [("bearer", {"realm": 'a"b', "error": "invalid_token"}), ("basic", {"realm": "c, d"})],
        ),
        ("Negotiate, Basic", [("negotiate", {}), ("basic", {})]),
        ("", []),
        (', , =x "', [("x", {}), ('"', {})]),
    ],
)  # fmt: skip
def test_challenges_are_taken_apart(text: str, expected: object) -> None:
    assert parse_challenges(text) == expected


@pytest.mark.parametrize(
    ("exempt", "host", "port", "through"),
    [
        ("", "example.org", 443, True),
        ("", "localhost", 443, False),
        ("", "127.0.0.9", 5000, False),
        ("*", "example.org", 443, False),
        ("example.org", "example.org", 443, False),
        ("example.org", "sub.example.org", 443, False),
        ("example.org", "notexample.org", 443, True),
        (".example.org", "example.org", 443, True),
        (".example.org", "a.example.org", 443, False),
        ("*.example.org", "a.example.org", 443, False),
        ("10.0.0.0/8", "10.2.3.4", 443, False),
        ("10.0.0.0/8", "11.2.3.4", 443, True),
        ("example.org:5000", "example.org", 443, True),
        ("example.org:5000", "example.org", 5000, False),
        ("a, 192.0.2.1 ,b", "192.0.2.1", 443, False),
        ("[2001:db8::1]", "2001:db8::1", 443, False),
    ],
)
def test_no_proxy_follows_the_custom(exempt: str, host: str, port: int, through: bool) -> None:
    proxies = Proxies("http://p:1", "http://p:2", exempt)
    assert proxies.find("https", host, port) == ("http://p:2" if through else "")


def test_proxies_come_from_the_environment_in_either_case() -> None:
    assert Proxies.of({"HTTPS_PROXY": "p:1", "http_proxy": "http://q"}) == Proxies(
        "http://q", "p:1"
    )
    assert Proxies("", "p:1").find("https", "a", 1) == "http://p:1"
    assert Proxies("", "p:1").find("http", "a", 1) == ""


def addresses(policy: Policy, domain: str, mirrors: bool = False) -> list[tuple[str, bool]]:
    found = asyncio.run(Hosts(policy).endpoints(domain, mirrors=mirrors))
    return [(str(endpoint.base), endpoint.verify) for endpoint in found]


def test_docker_hub_has_another_address_and_mirrors_stand_before_it() -> None:
    policy = Policy(mirrors=("https://mirror.example/", "http://127.0.0.1:5000/"))
    hub = [("https://registry-1.docker.io/", True)]
    assert addresses(policy, "docker.io") == hub
    assert addresses(policy, "docker.io", mirrors=True) == [
        ("https://mirror.example/", True),
        ("http://127.0.0.1:5000/", False),
        *hub,
    ]
    assert addresses(policy, "quay.io", mirrors=True) == [("https://quay.io/", True)]


@pytest.mark.parametrize(
    ("insecure", "domain", "is_insecure"),
    [
        ((), "registry.example:5000", False),
        ((), "127.0.0.1:5000", True),
        ((), "localhost", True),
        ((), "[::1]:5000", True),
        (("registry.example:5000",), "registry.example:5000", True),
        (("registry.example:5000",), "registry.example:5001", False),
        (("registry.example",), "registry.example:5001", True),
        (("192.0.2.0/24",), "192.0.2.7:5000", True),
        (("192.0.2.0/24",), "192.0.3.7:5000", False),
    ],
)
def test_who_is_insecure(insecure: tuple[str, ...], domain: str, is_insecure: bool) -> None:
    found = addresses(Policy(insecure=insecure), domain)
    expected = [(f"https://{domain}/", not is_insecure)]
    if is_insecure:
        expected.append((f"http://{domain}/", False))
    assert found == expected


@pytest.mark.parametrize("text", ["mirror.example", "ftp://a", "https://a/b", "https://u:p@a/"])
def test_a_mirror_is_an_address_and_no_more(text: str) -> None:
    with pytest.raises(InvalidArgument, match="registry-mirror"):
        check_mirror(text)
    assert check_mirror("https://mirror.example") == "https://mirror.example/"


@pytest.mark.parametrize("text", ["", "http://a", "10.0.0.0/40"])
def test_an_insecure_registry_is_a_name_or_a_network(text: str) -> None:
    with pytest.raises(InvalidArgument, match="insecure-registry"):
        check_insecure(text)


def described(*platforms: str | None) -> list[Descriptor]:
    found = []
    for number, text in enumerate(platforms):
        platform = None
        if text is not None:
            os_, architecture, *variant = text.split("/")
            platform = Platform(
                os=os_, architecture=architecture, variant=variant[0] if variant else None
            )
        found.append(Descriptor(media_type="x", digest=str(number), size=0, platform=platform))
    return found


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        (Platform(architecture="amd64"), ["linux/arm64", "linux/amd64"], "1"),
        (Platform(architecture="amd64"), ["linux/386", "linux/amd64"], "1"),
        (Platform(architecture="amd64"), ["linux/386", "linux/arm64"], "0"),
        (Platform(architecture="arm", variant="v7"), ["linux/arm/v5", "linux/arm/v6"], "1"),
        (Platform(architecture="arm", variant="v6"), ["linux/arm/v7", "linux/arm/v5"], "1"),
        (Platform(architecture="arm64", variant="v8"), ["linux/arm/v7", "linux/arm64"], "1"),
        (Platform(architecture="arm64", variant="v8"), ["linux/arm/v6", "linux/arm/v7"], "1"),
        (Platform(architecture="riscv64"), ["linux/amd64", "unknown/unknown"], None),
        (Platform(architecture="amd64"), ["windows/amd64"], None),
        (Platform(architecture="amd64"), [None], "0"),
        (Platform(architecture="amd64"), [None, "linux/arm64"], None),
    ],
)
def test_the_best_match_of_an_index_is_chosen(
    wanted: Platform, offered: list[str | None], chosen: str | None
) -> None:
    found = select(described(*offered), wanted)
    assert (found.digest if found else None) == chosen
