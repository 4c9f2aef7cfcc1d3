"""What a cache tells of itself: fields, metrics; and Docker Hub's short names."""

from __future__ import annotations

import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.registry.cache.settings import read_settings
from tests.image.archives import ONE, configuration, docker_save
from tests.registry.registries import Authority, Liar, Registry, image_of, sha256
from tests.registry.server.accounts import basic, htpasswd
from tests.registry.server.house import House
from tests.registry.test_carrier import Proxy
from tests.storage.drivers.layers import layer

LAYER = b"layer" * 1000


@pytest.fixture
def cache(root: Path) -> Iterator[tuple[House, Liar]]:
    other = Liar()
    proxy = ("--proxy", f"http://{other.address}", "--proxy-expiry", "0s", "--collect-every", "0")
    house = House(root, *proxy, "--metrics", "127.0.0.1:0").start()
    yield house, other
    house.close()
    other.close()


def metrics(house: House) -> dict[str, float]:
    """The cache's, by what stands behind its name."""
    address = house.said(r'msg="serving metrics" address=(\S+)')[1]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    found = (line.split(" ") for line in lines if line.startswith("sampan_registry_cache_"))
    return {name.removeprefix("sampan_registry_cache_"): float(value) for name, value in found}


def sent(said: dict[str, float]) -> float:
    return sum(said[f'sent_bytes_total{{result="{how}"}}'] for how in ("hit", "miss"))


def test_what_it_had_and_what_it_fetched_is_counted(cache: tuple[House, Liar]) -> None:
    house, other = cache
    manifest, blobs = image_of([LAYER])
    other.hold("t/box", "v", manifest, blobs)
    digest = sha256(manifest)
    tag = "/v2/t/box/manifests/v"

    def status(path: str) -> str:
        return str(house.request("GET", path).headers["Cache-Status"])

    assert status(tag) == "sampan; fwd=miss; stored"
    assert status(f"/v2/t/box/manifests/{digest}") == "sampan; hit"
    other.paths["HEAD", tag] = lambda request: request.answer(200, Docker_Content_Digest=digest)
    assert status(tag) == 'sampan; fwd=stale; detail="the same"'
    blob = f"/v2/t/box/blobs/{sha256(LAYER)}"
    assert house.request("GET", blob).body == LAYER
    assert house.request("GET", blob, Range="bytes=0-9").status == 206
    assert house.request("GET", f"/v2/t/box/blobs/{sha256(b'x')}").status == 404
    # Bytes are counted when they are sent, which may be after they have come.
    deadline = time.monotonic() + 60
    while sent(said := metrics(house)) < len(LAYER) + 10:
        assert time.monotonic() < deadline, said
    assert sent(said) == len(LAYER) + 10
    assert said['requests_total{kind="manifest",result="miss"}'] == 1
    assert said['requests_total{kind="manifest",result="hit"}'] == 1
    assert said['requests_total{kind="manifest",result="same"}'] == 1
    assert said['requests_total{kind="blob",result="miss"}'] == 1
    assert said['requests_total{kind="blob",result="hit"}'] == 1
    assert said["fetched_bytes_total"] == len(manifest) + len(LAYER)
    assert (said["failures_total"], said["upstream_up"]) == (0, 1)
    other.close()
    assert status(tag) == 'sampan; hit; detail="no answer there"'
    assert house.request("GET", "/v2/t/box/manifests/other").status == 503
    said = metrics(house)
    assert said['requests_total{kind="manifest",result="old"}'] == 1
    assert (said["failures_total"], said["upstream_up"]) == (2, 0)


@pytest.mark.parametrize(
    ("url", "place", "home"),
    [
        ("https://docker.io", "https://registry-1.docker.io", "library/box"),
        ("https://index.docker.io/", "https://registry-1.docker.io", "library/box"),
        ("https://registry-1.docker.io", "https://registry-1.docker.io", "library/box"),
        ("https://quay.io", "https://quay.io", "box"),
        ("http://docker.io.test:5000", "http://docker.io.test:5000", "box"),
    ],
)
def test_short_names_are_docker_hub_s_alone(url: str, place: str, home: str) -> None:
    found = read_settings(url, "", {}, expiry=1, keep=1, size=0)
    assert (found.url, found.home("box"), found.home("t/box")) == (place, home, "t/box")


@pytest.mark.root
@pytest.mark.peer
def test_a_short_name_of_docker_hub(
    root: Path, tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's docker-registry in its place, by way of a proxy; rules are about its names."""
    hub = Registry(tmp_path, tls=authority.issue("hub", "registry-1.docker.io"))
    proxy = Proxy(hub.port)
    contents = layer({"./": None, "motd": b"hello"}, 0o755)
    archive = tmp_path / "image.tar"
    archive.write_bytes(docker_save([contents, ONE], ["box:1"], configuration([contents, ONE])))
    copy = ["skopeo", "copy", "-q"]
    target = f"docker://{hub.address}/library/box:1"
    subprocess.run(
        [*copy, "--dest-tls-verify=false", f"docker-archive:{archive}", target], check=True
    )
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    htpasswd(root.parent / "accounts", anna="a:secret")
    (root.parent / "rules").write_text(
        '[[rule]]\nusers=["anna"]\nrepositories=["library/*"]\nactions=["pull"]\n'
    )
    accounts = ("--htpasswd", f"{root.parent}/accounts", "--access", f"{root.parent}/rules")
    house = House(root, "--proxy", "https://docker.io", *accounts).start()
    try:
        anna = basic("anna", "a:secret")
        # Docker asks for a token by the name that it was given.
        query = urllib.parse.urlencode({"scope": "repository:box:pull"})
        token = house.request("GET", f"/token?{query}", Authorization=anna).json()["token"]
        bearer = f"Bearer {token}"
        for name in ("box", "library/box"):
            path = f"/v2/{name}/manifests/1"
            assert house.request("GET", path).status == 401
            assert house.request("GET", path, Authorization=bearer).status == 200
        assert b"CONNECT registry-1.docker.io:443" in proxy.asked[0]
        plain, creds = "--src-tls-verify=false", "--src-creds=anna:a:secret"
        source = f"docker://{house.address}/box:1"
        subprocess.run([*copy, plain, creds, source, f"dir:{tmp_path}/image"], check=True)
        found = house.request("GET", "/api/v1/repositories", Authorization=anna).json()
        assert [one["name"] for one in found["repositories"]] == ["library/box"]
    finally:
        house.close()
        proxy.close()
        hub.close()
