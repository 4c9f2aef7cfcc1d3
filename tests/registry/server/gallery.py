"""A registry with something to look at: images of several platforms, layers, histories, what is
attached to them, and one whose every text is hostile.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests.registry.registries import sha256
from tests.registry.server.house import House

__all__ = ["EVIL", "fill", "index", "pushed_page"]

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EVIL = (
    "<script>window.hurt=1</script><img src=x onerror='window.hurt=1'>"
    "\"'><svg onload=window.hurt=1> {{7*7}} ${7*7} javascript:window.hurt=1 \u202eesrever\u0007"
)
_HISTORY = [
    {
        "created": "2026-03-02T08:00:00Z",
        "created_by": "/bin/sh -c #(nop) ADD file:4b1d9 in / ",
    },
    {
        "created": "2026-03-02T08:00:02Z",
        "created_by": "ENV PATH=/usr/local/bin:/usr/bin:/bin",
        "empty_layer": True,
    },
    {
        "created": "2026-04-01T09:10:00Z",
        "created_by": "RUN /bin/sh -c set -eux; apt-get update; apt-get install -y "
        "--no-install-recommends ca-certificates netbase tzdata && rm -rf /var/lib/apt/lists/* "
        "&& useradd --system --uid 10001 harbour && install -d -o harbour /srv/harbour # buildkit",
    },
    {"created": "2026-04-01T09:12:00Z", "created_by": "COPY requirements.txt /srv/ # buildkit"},
    {
        "created": "2026-04-01T09:13:00Z",
        "created_by": "RUN /bin/sh -c pip install --no-cache-dir -r /srv/requirements.txt",
    },
    {"created": "2026-04-01T09:14:00Z", "created_by": "COPY src /srv/harbour # buildkit"},
    {
        "created": "2026-04-01T09:14:01Z",
        "created_by": 'CMD ["python" "-m" "harbour"]',
        "empty_layer": True,
    },
]
_SIZES = (310_000, 126_000, 400, 214_000, 38_000)


def _noise(seed: str, size: int) -> bytes:
    return hashlib.shake_128(seed.encode()).digest(size)


def _configuration(platform: dict[str, str], version: str) -> dict[str, Any]:
    return {
        **platform,
        "created": "2026-04-01T09:14:01Z",
        "author": "Harbour team",
        "config": {
            "User": "harbour",
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HARBOUR_PORT=8080", "LANG=C.UTF-8"],
            "Entrypoint": ["/usr/bin/tini", "--"],
            "Cmd": ["python", "-m", "harbour"],
            "WorkingDir": "/srv/harbour",
            "ExposedPorts": {"8080/tcp": {}},
            "StopSignal": "SIGTERM",
            "Labels": {
                "org.opencontainers.image.description": "Berths, tides and harbour dues, as a "
                "service",
                "org.opencontainers.image.source": "https://example.org/harbour",
                "org.opencontainers.image.version": version,
            },
        },
        "history": _HISTORY,
    }


def index(house: House, name: str, tag: str) -> str:
    """Two platforms, an attestation of BuildKit's, and two referrers; the index's digest."""
    entries = []
    for platform in (
        {"os": "linux", "architecture": "amd64"},
        {"os": "linux", "architecture": "arm64", "variant": "v8"},
    ):
        arch = platform["architecture"]
        blobs = [_noise(f"{arch}{number}", size) for number, size in enumerate(_SIZES)]
        image = house.image(name, *blobs, config=_configuration(platform, tag))
        entries.append(_entry(house, name, image) | {"platform": platform})
    beside = house.image(name, b'{"_type": "statement"}', config={"of": "the build"})
    beside["layers"][0]["mediaType"] = "application/vnd.in-toto+json"
    entries.append(
        _entry(house, name, beside)
        | {
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": entries[0]["digest"],
            },
        }
    )
    answer = house.put_manifest(
        name, tag, {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    )
    digest = str(answer.headers["Docker-Content-Digest"])
    subject = {"mediaType": INDEX, "digest": digest, "size": 1000}
    for kind, title in (
        ("application/spdx+json", "sbom.spdx.json"),
        ("application/vnd.dev.cosign.artifact.sig.v1+json", "signature"),
    ):
        artifact = house.image(name, title.encode() * 50, config={"for": kind})
        artifact["layers"][0]["annotations"] = {"org.opencontainers.image.title": title}
        artifact |= {"artifactType": kind, "subject": subject}
        house.put_manifest(name, sha256(json.dumps(artifact).encode()), artifact)
    return digest


def _entry(house: House, name: str, image: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(image).encode()
    house.put_manifest(name, sha256(data), data)
    return {"mediaType": MANIFEST, "digest": sha256(data), "size": len(data)}


def pushed_page(house: House, name: str, tag: str) -> None:
    """A manifest that says it is a page, with a script."""
    page = b"<html><body>pushed<script>document.body.textContent = 'hurt'</script>"
    house.put_manifest(name, tag, page, "text/html")


def fill(house: House) -> None:
    """All of it."""
    index(house, "harbour/api", "2.10.0")
    for tag in ("2.9.1", "2.10.0-rc.1", "1.0.0", "latest", "edge"):
        platform = {"os": "linux", "architecture": "amd64"}
        house.push(
            "harbour/api",
            tag,
            *(_noise(f"{tag}{number}", size) for number, size in enumerate(_SIZES)),
            config=_configuration(platform, tag),
        )
    for name, description in {
        "harbour/web": "What visitors of the harbour see",
        "tools/redis": "An in-memory database",
        "tools/postgres": "A relational database with a long memory",
        "tools/toolbox": "",
    }.items():
        notes = {"org.opencontainers.image.description": description} if description else {}
        house.push(name, "1.0", _noise(name, 5000), annotations=notes)
    image = json.dumps(house.image("many/tags", b"layer")).encode()
    for first in (0, 75):
        tags = "&".join(f"tag=1.{number}" for number in range(first, first + 75))
        house.put_manifest("many/tags", f"{sha256(image)}?{tags}", image)
    hostile = {
        "os": EVIL,
        "architecture": EVIL,
        "author": EVIL,
        "created": EVIL,
        "config": {
            "User": EVIL,
            "Env": [EVIL, f"A={EVIL}"],
            "Cmd": [EVIL],
            "Labels": {
                EVIL: EVIL,
                "org.opencontainers.image.source": "javascript:window.hurt=1",
                "org.opencontainers.image.url": "data:text/html,<script>window.hurt=1</script>",
                "org.opencontainers.image.description": EVIL,
            },
            "ExposedPorts": {EVIL: {}},
            "Volumes": {EVIL: {}},
        },
        "history": [
            {"created_by": EVIL, "comment": EVIL, "created": EVIL},
            {"created_by": f"RUN {EVIL} && {EVIL}" * 20, "empty_layer": True},
            {"created_by": {"not": "text"}, "empty_layer": "not a truth"},
        ],
    }
    house.push("zzz/hostile", "v", b"layer", config=hostile, annotations={EVIL: EVIL, "url": EVIL})
