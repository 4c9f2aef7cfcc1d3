"""Search: by name, description, label and platform, ranked, as it stands after each change."""

from __future__ import annotations

from typing import Any

import pytest

from tests.registry.server.house import House


@pytest.fixture(scope="module")
def house(anywhere: House) -> House:
    return anywhere


def found(house: House, text: str, **more: object) -> list[str]:
    return [one["name"] for one in answer(house, text, **more)["results"]]


def answer(house: House, text: str, **more: object) -> Any:
    query = "&".join(f"{name}={value}" for name, value in more.items())
    got = house.request("GET", f"/v1/search?q={text}&{query}")
    assert got.status == 200, got
    return got.json()


@pytest.fixture(scope="module")
def stocked(house: House) -> House:
    """Repositories that differ in what they say of themselves."""
    arm = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    labels = {
        "config": {"Labels": {"maintainer": "Zoë", "org.label-schema.description": "a cache"}}
    }
    note = {"org.opencontainers.image.description": "beside redis"}
    house.push("stock/redis", "v", b"1", config={**arm, **labels})
    house.push("stock/redis-tools", "v", b"2")
    house.push("stock/sidecar", "v", b"3", annotations=note)
    house.push("stock/other", "v", b"4", config={"os": "linux", "architecture": "s390x"})
    return house


def test_the_name_counts_most_then_what_is_said(stocked: House) -> None:
    assert found(stocked, "redis") == ["stock/redis", "stock/redis-tools", "stock/sidecar"]
    assert found(stocked, "stock/redis-tools") == ["stock/redis-tools"]
    assert found(stocked, "REDIS+tool") == ["stock/redis-tools"]


def test_by_description_label_and_platform(stocked: House) -> None:
    assert found(stocked, "cache") == ["stock/redis"]
    assert found(stocked, "zoe") == ["stock/redis"]
    assert found(stocked, "arm64") == ["stock/redis"]
    assert found(stocked, "s390x") == ["stock/other"]
    first = answer(stocked, "cache")["results"][0]
    assert first["description"] == "a cache"


def test_pages(stocked: House) -> None:
    pages = [answer(stocked, "stock", n=3, page=page) for page in (1, 2, 3)]
    assert [len(page["results"]) for page in pages] == [3, 1, 0]
    assert [page["num_results"] for page in pages] == [4, 4, 4]
    assert [page["num_pages"] for page in pages] == [2, 2, 2]


@pytest.mark.parametrize(
    "text", ["", "%22", "*", "AND", "NEAR(", "x%22+OR+%22y", "%00", "'", "%FF"]
)
def test_words_that_mean_something_elsewhere_mean_nothing_here(stocked: House, text: str) -> None:
    assert found(stocked, text) == []


def test_it_follows_what_is_pushed_and_deleted(house: House) -> None:
    old = {"org.opencontainers.image.description": "vermilion"}
    new = {"org.opencontainers.image.description": "turquoise"}
    house.push("follows/box", "v", b"1", annotations=old)
    assert found(house, "vermilion") == ["follows/box"]
    digest = house.push("follows/box", "v", b"2", annotations=new)
    assert found(house, "vermilion") == []
    assert found(house, "turquoise") == ["follows/box"]
    assert house.request("DELETE", f"/v2/follows/box/manifests/{digest}").status == 202
    assert found(house, "turquoise") == []
    assert found(house, "follows") == ["follows/box"]
