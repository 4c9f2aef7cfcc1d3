"""The registry's own description: it says what is there, and is what is said.

That answers are as it says is checked with each of them, in every test here (``House.request``).
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from sampan.api.distribution import context
from sampan.api.distribution.routes import FREE, PATHS
from sampan.errors import SampanError
from sampan.registry.server import errors
from tests.registry.registries import sha256
from tests.registry.server.description import METHODS, document, faults, routes, template
from tests.registry.server.house import House

ELSEWHERE = {"/metrics"}
"""Served at an address of their own."""


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, item[method])
        for path, item in document()["paths"].items()
        for method in METHODS
        if method in item
    ]


def test_it_is_openapi() -> None:
    from schemathesis.core.result import Ok
    from schemathesis.openapi import from_dict

    found = list(from_dict(document()).get_all_operations())
    assert all(isinstance(one, Ok) for one in found)
    assert len(found) == len(operations())
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)


def test_every_route_is_in_it_and_nothing_else() -> None:
    table = {
        (template(path.pattern.pattern), method.lower())
        for path in PATHS
        for method in path.methods
    }
    said = {(template(path), method) for path, method, _ in operations() if path not in ELSEWHERE}
    assert said == table
    assert len(routes()) == len(PATHS)


def test_who_is_let_in_without_a_name_is_said() -> None:
    methods = {
        (routes()[path.pattern.pattern], method.lower()): route
        for path in PATHS
        for method, route in path.methods.items()
    }
    for path, method, operation in operations():
        if path in ELSEWHERE:
            continue
        free = methods[path, method].action == FREE
        assert ("403" not in operation["responses"]) == free, (path, method)


def test_every_code_is_in_it() -> None:
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    codes = {one.code for one in kinds if issubclass(one, errors.Refusal)}
    codes |= {*context._CODES.values(), context.Refusal400.code}
    codes.add(json.loads(context.error(SampanError("x")).body)["errors"][0]["code"])
    assert codes == set(document()["components"]["schemas"]["Code"]["enum"])


def test_what_is_defined_is_used() -> None:
    text = json.dumps(document())
    for kind, things in document()["components"].items():
        if kind != "securitySchemes":
            for name in things:
                assert f'"#/components/{kind}/{name}"' in text, (kind, name)


def test_the_registry_serves_it(house: House) -> None:
    path = "/api/v1/openapi.json"
    answer = house.request("GET", path)
    assert answer.json() == document()
    assert house.request("GET", path, If_None_Match=answer.headers["ETag"]).status == 304
    packed = house.request("GET", path, Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.body) * 4 < len(answer.body)


def test_the_judge_sees_what_is_wrong(house: House) -> None:
    answer = house.request("GET", "/v2/_catalog")
    headers = answer.headers
    assert faults("GET", "/v2/_catalog", 200, headers, answer.body) == []
    assert faults("GET", "/v2/_catalog", 204, headers, b"")
    assert faults("GET", "/v2/_catalog", 200, headers, b'{"repositories":["A"]}')
    assert faults("GET", "/v2/_catalog", 200, headers, b'{"repositories":[],"x":1}')
    assert faults("GET", "/v2/_catalog", 401, headers, b'{"errors":[]}')
    assert faults("GET", "/nowhere", 404, headers, b'{"errors":[{"code":"X","message":"x"}]}')
    del headers["Content-Type"]
    headers["Content-Type"] = "text/plain"
    assert faults("GET", "/v2/_catalog", 200, headers, answer.body)


def test_a_method_that_a_path_has_not_is_told_which_it_has(house: House) -> None:
    answer = house.request("POST", "/v2/a/manifests/v")
    assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])
    assert answer.headers["Allow"] == "GET, HEAD, PUT, DELETE"


def test_what_can_be_got_has_a_head(house: House) -> None:
    house.push("heads/box", "v", b"layer")
    box = "/v2/heads/box"
    there = [path for path in PATHS if "GET" in path.methods]
    asked = [
        "/", "/v2/", "/v2/_catalog", f"{box}/tags/list", f"{box}/manifests/v",
        f"{box}/blobs/{sha256(b'layer')}", f"{box}/referrers/{sha256(b'x')}",
        house.begin("heads/box"), "/v1/_ping", "/v1/search?q=heads", "/token",
        "/healthz", "/readyz", "/web/x/page.js",
        "/api/v1/repositories", "/api/v1/repositories/heads/box/tags", "/api/v1/openapi.json",
        "/api/v1/repositories/heads/box/manifests/v", "/api/v1/session",
    ]  # fmt: skip
    assert {
        one.pattern for path in asked for one in there if one.pattern.fullmatch(path.split("?")[0])
    } == {one.pattern for one in there}
    for path in asked:
        got, head = house.request("GET", path), house.request("HEAD", path)
        assert (head.status, head.body) == (got.status, b""), path
        for name in ("Content-Type", "Content-Length", "Docker-Content-Digest", "Range"):
            assert head.headers[name] == got.headers[name], (path, name)


def test_metrics_are_as_it_says(root: Path) -> None:
    house = House(root, "--metrics", "127.0.0.1:0").start()
    try:
        look_at_metrics(house)
    finally:
        house.close()


def look_at_metrics(house: House) -> None:
    house.request("GET", "/v2/")
    address = house.said(r'msg="serving metrics" address=(\S+)')[1]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as response:
        said = document()["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
        assert response.headers.get_content_type() in said
        assert b"sampan_registry_requests_total" in response.read()
