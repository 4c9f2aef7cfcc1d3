"""Image documents: what others write is read, and what we write fits the published schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import InvalidArgument
from sampan.oci import image as oci

SCHEMAS = Path(__file__).resolve().parents[2] / ".." / "shared" / "specs" / "oci-image-schema"
DIGEST = "sha256:" + "a" * 64


def validate(name: str, document: object) -> None:
    if not SCHEMAS.is_dir():
        pytest.skip("the OCI schemas are not beside the checkout")
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    draft = pytest.importorskip("referencing.jsonschema").DRAFT4

    def load(uri: str) -> Any:
        # The schemas name each other by file name, below whichever base they give themselves.
        return referencing.Resource(
            json.loads((SCHEMAS / uri.rpartition("/")[2]).read_text()), draft
        )

    schema = json.loads((SCHEMAS / name).read_text())
    registry = referencing.Registry(retrieve=load)
    jsonschema.Draft4Validator(schema, registry=registry).validate(document)


IMAGE: dict[str, Any] = {
    "architecture": "arm64",
    "variant": "v8",
    "os": "linux",
    "created": "2024-01-02T03:04:05.123456789Z",
    "author": "somebody",
    "config": {
        "User": "1000:1000",
        "ExposedPorts": {"80/tcp": {}},
        "Env": ["A=b"],
        "Entrypoint": ["/bin/sh"],
        "Cmd": ["-c", "true"],
        "Volumes": {"/data": {}},
        "WorkingDir": "/w",
        "Labels": {"k": "v"},
        "StopSignal": "SIGINT",
        "ArgsEscaped": True,
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1000000000, "Retries": 2},
        "OnBuild": ["RUN x"],
        "Shell": ["/bin/bash", "-c"],
    },
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    "history": [{"created_by": "x", "empty_layer": True}, {"comment": "y"}],
}


def test_every_member_of_a_configuration_survives_reading_and_writing() -> None:
    assert oci.Image.from_json(IMAGE).to_json() == IMAGE
    validate("config-schema.json", IMAGE)


def test_docker_writes_null_where_nothing_is() -> None:
    document = dict(IMAGE, config={"Cmd": None, "Labels": None, "Hostname": "x", "Tty": False})
    assert oci.Image.from_json(document).config == oci.ImageConfig()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"rootfs": None}, "rootfs"),
        ({"rootfs": {"type": "layers", "diff_ids": "x"}}, "rootfs.diff_ids"),
        ({"config": {"Env": "A=b"}}, "config.Env"),
        ({"config": {"Healthcheck": {"Retries": "2"}}}, "config.Healthcheck.Retries"),
        ({"architecture": 1}, "architecture"),
    ],
)
def test_a_wrong_type_is_named_by_its_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{place}:"):
        oci.Image.from_json({**IMAGE, **change})


def test_a_root_file_system_that_is_not_layers_is_refused() -> None:
    document = oci.Image.from_json({**IMAGE, "rootfs": {"type": "other", "diff_ids": []}})
    with pytest.raises(InvalidArgument, match="other"):
        document.check()


def test_a_manifest_and_an_index_fit_their_schemas() -> None:
    config = oci.Descriptor(media_type=oci.CONFIG, digest=DIGEST, size=3)
    layer = oci.Descriptor(media_type=oci.LAYER_GZIP, digest=DIGEST, size=4)
    manifest = oci.Manifest(
        schema_version=2, media_type=oci.MANIFEST, config=config, layers=(layer,)
    )
    validate("image-manifest-schema.json", manifest.to_json())
    descriptor = oci.Descriptor(
        media_type=oci.MANIFEST, digest=DIGEST, size=9, annotations={oci.REFERENCE_ANNOTATION: "t"}
    )
    index = oci.Index(schema_version=2, media_type=oci.INDEX, manifests=(descriptor,))
    validate("image-index-schema.json", index.to_json())
    assert oci.Manifest.from_json(manifest.to_json()) == manifest
    assert oci.Index.from_json(index.to_json()) == index
