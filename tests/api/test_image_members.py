"""The platforms of images: ``manifests=1``, and ``image ls --tree`` of Docker's client and ours."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.api.pulling import index_of, pull
from tests.daemon_fixture import DOCKER, Daemon, daemon
from tests.image.archives import BASE, configuration, image_id
from tests.registry.registries import OCI_INDEX, OCI_MANIFEST, Liar, image_of, liar, sha256

pytestmark = pytest.mark.root
__all__ = ["daemon", "liar"]

SAMPAN = str(Path(sys.executable).with_name("sampan"))


def test_an_image_shows_the_platforms_of_its_index(daemon: Daemon, liar: Liar) -> None:
    entries, digests = [], {}
    for architecture in ("riscv64", "s390x"):
        config = json.dumps(json.loads(configuration([BASE])) | {"architecture": architecture})
        manifest, blobs = image_of([BASE], config=config.encode())
        liar.hold("tree", "unused", manifest, blobs)
        entries.append((manifest, {"os": "linux", "architecture": architecture}))
        digests[architecture] = sha256(manifest)
    index = index_of(entries)
    for name in ("1", sha256(index)):
        liar.held[f"/v2/tree/manifests/{name}"] = OCI_INDEX, index
    name = f"{liar.address}/tree"
    pull(daemon, name, "1", platform="linux/s390x")
    listed = daemon.get(
        "/images/json", manifests=1, filters=json.dumps({"reference": [f"{name}:1"]})
    ).json()
    (image,) = listed
    assert image["Id"] == image_id(config.encode())
    assert image["Descriptor"]["digest"] == sha256(index)
    away, here = image["Manifests"]
    assert (away["ID"], away["Available"]) == (digests["riscv64"], False)
    assert away["Size"] == {"Content": 0, "Total": 0}
    assert (here["ID"], here["Available"]) == (digests["s390x"], True)
    assert here["ImageData"]["Platform"] == {"os": "linux", "architecture": "s390x"}
    assert here["Descriptor"]["mediaType"] == OCI_MANIFEST
    assert here["Size"]["Total"] == here["Size"]["Content"] + image["Size"]
    for version in ("1.46", "1.51"):
        plain = daemon.get(f"/v{version}/images/json").json()
        assert all("Manifests" not in one for one in plain)
    ours = daemon.docker("image", "ls", "--tree", program=SAMPAN)
    assert ours.returncode == 0, ours.stderr
    wanted = rf"{name}:1 +\S+ .*\n├─ linux/riscv64 +\S+\n└─ linux/s390x +\S+ +\d"
    assert re.search(wanted, ours.stdout), ours.stdout
    refused = daemon.docker("images", "--tree", "-q", program=SAMPAN)
    assert (refused.returncode, "--quiet is not for --tree" in refused.stderr) == (1, True)
    if DOCKER:
        theirs = daemon.docker("image", "ls", "--tree", program=DOCKER)
        assert theirs.returncode == 0, theirs.stderr
        if "unknown flag" not in theirs.stderr:
            assert re.search(r"├─ linux/riscv64 .*\n└─ linux/s390x ", theirs.stdout), theirs.stdout


def test_an_image_without_a_manifest_stands_alone(daemon: Daemon) -> None:
    from tests.api.test_image_operations import load

    identity = load(daemon, [BASE], "alone:1")
    shown = daemon.get(
        "/images/json", manifests=1, filters=json.dumps({"reference": ["alone:1"]})
    ).json()
    assert [(one["Id"], one.get("Manifests")) for one in shown] == [(identity, None)]
    said = daemon.docker("images", "--tree", "alone", program=SAMPAN).stdout
    assert [line.split()[0] for line in said.splitlines()] == ["IMAGE", "alone:1"]
