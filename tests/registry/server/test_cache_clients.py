"""Clients by way of a cache: docker with a mirror, skopeo; behind it Debian's docker-registry with
TLS and a password, or one of ours with tokens.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.archives import ONE, configuration, docker_save, image_id
from tests.image.test_peers import Docker, dockerd
from tests.registry.registries import PASSWORD, USER, Authority, Registry
from tests.registry.server.accounts import basic, htpasswd
from tests.registry.server.house import House
from tests.storage.drivers.layers import layer

pytestmark = [pytest.mark.root, pytest.mark.peer]

ROOT = layer({"./": None, "etc/": None, "etc/motd": b"from behind the cache"}, 0o755)
CONFIG = configuration([ROOT, ONE])


@pytest.fixture(scope="module")
def secret(
    quick: Path, tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[House]:
    """A cache of a registry that nobody but it has the password of; library/box:1 is there."""
    place = tmp_path_factory.mktemp("cached")
    registry = Registry(place, password=True, tls=authority.issue("cached"))
    archive = place / "image.tar"
    archive.write_bytes(docker_save([ROOT, ONE], ["box:1"], CONFIG))
    target = f"docker://{registry.address}/library/box:1"
    words = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"--dest-creds={USER}:{PASSWORD}"]
    subprocess.run([*words, f"docker-archive:{archive}", target], check=True)
    (place / "credentials").write_text(f"username = {json.dumps(USER)}\npassword = 'wrong'\n")
    options = ("--proxy", f"https://{registry.address}", "--audit-log", f"{place}/audit")
    with tempfile.TemporaryDirectory(prefix="registry-", dir=quick) as root:
        house = House(Path(root) / "root", *options, "--proxy-credentials", f"{place}/credentials")
        house.start()
        path = "/v2/library/box/manifests/1"
        answer = house.request("GET", path)
        assert (answer.status, answer.codes) == (403, ["DENIED"])
        (place / "credentials").write_text(
            f"username = {json.dumps(USER)}\npassword = {json.dumps(PASSWORD)}\n"
        )
        assert house.process is not None
        house.process.send_signal(1)
        house.said("certificates and accounts reloaded")
        yield house
        house.close()
        registry.close()
        assert PASSWORD not in house.log.read_text() + (place / "audit").read_text()


def test_docker_by_way_of_a_mirror(secret: House) -> None:
    with dockerd("--registry-mirror", f"http://127.0.0.1:{secret.port}") as docker:
        docker("pull", "-q", "box:1")
        assert docker("image", "inspect", "-f", "{{.Id}}", "box:1").strip() == image_id(CONFIG)
        assert isinstance(docker, Docker)
    lines = [json.loads(line) for line in Path(secret.options[3]).read_text().splitlines()]
    assert ("pull", "library/box", "1") in {
        (one["action"], one["repository"], one.get("tag")) for one in lines
    }


def test_skopeo_by_way_of_a_cache(secret: House, tmp_path: Path) -> None:
    plain = "--src-tls-verify=false"
    source = f"docker://{secret.address}/library/box:1"
    words = ["skopeo", "copy", "-q", plain, source, f"dir:{tmp_path}/image"]
    subprocess.run(words, check=True)
    manifest = json.loads((tmp_path / "image" / "manifest.json").read_bytes())
    assert manifest["config"]["digest"] == image_id(CONFIG)
    listed = ["skopeo", "list-tags", "--tls-verify=false", source.removesuffix(":1")]
    done = subprocess.run(listed, check=True, capture_output=True)
    assert json.loads(done.stdout)["Tags"] == ["1"]
    push = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"dir:{tmp_path}/image", source]
    refused = subprocess.run(push, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "push there" in refused.stderr


def test_a_cache_of_ours_with_tokens_and_accounts_of_its_own(root: Path) -> None:
    place = root.parent
    htpasswd(place / "accounts", robot="upstream")
    upstream = House(place / "upstream", "--htpasswd", f"{place}/accounts").start()
    cache = House(root, "--proxy", f"http://{upstream.address}", "--htpasswd", f"{place}/mine")
    htpasswd(place / "mine", anna="cache")
    (place / "credentials").write_text('username = "robot"\npassword = "upstream"\n')
    cache.options += ("--proxy-credentials", f"{place}/credentials")
    try:
        upstream.authorization = basic("robot", "upstream")
        digest = upstream.push("t/box", "v", b"layer")
        cache.start()
        path = "/v2/t/box/manifests/v"
        assert cache.request("GET", path).status == 401
        assert cache.request("GET", path, Authorization=basic("robot", "upstream")).status == 401
        cache.authorization = basic("anna", "cache")
        assert cache.request("GET", path).headers["Docker-Content-Digest"] == digest
        answer = cache.request("GET", f"/v2/t/box/referrers/{digest}")
        assert answer.json()["manifests"] == []
        # It moves there, and here when it is looked up again: after five minutes.
        other = upstream.push("t/box", "v", b"other")
        assert cache.request("HEAD", path).headers["Docker-Content-Digest"] == digest
        assert cache.request("GET", f"/v2/t/box/manifests/{other}").status == 200
        cache.stop()
        cache.start()
        assert cache.request("HEAD", path).headers["Docker-Content-Digest"] == other
    finally:
        cache.close()
        upstream.close()
