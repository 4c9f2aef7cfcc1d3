"""Documents of the OCI image specification 1.1, and of Docker's schema 2, as frozen records.

Both families have one shape and differ in media types, so one set of records serves both. The
configuration's members are Docker's: the specification took them over and leaves ``Healthcheck``,
``OnBuild``, ``Shell`` and ``ArgsEscaped`` to implementations.

An image's identity is the digest of its configuration *as bytes*: never re-encode a document that
came from elsewhere. Durations are nanoseconds; ``created`` is RFC 3339.
"""

from __future__ import annotations

from typing import ClassVar

from sampan.errors import InvalidArgument
from sampan.oci import digest as digests
from sampan.oci.platform import Platform  # noqa: TC001 - Record evaluates it at run time
from sampan.oci.record import Record

__all__ = [
    "CONFIG",
    "DOCKER_CONFIG",
    "DOCKER_INDEX",
    "DOCKER_LAYER_GZIP",
    "DOCKER_MANIFEST",
    "INDEX",
    "LAYER",
    "LAYER_GZIP",
    "LAYER_ZSTD",
    "MANIFEST",
    "REFERENCE_ANNOTATION",
    "Descriptor",
    "Healthcheck",
    "History",
    "Image",
    "ImageConfig",
    "Index",
    "Manifest",
    "RootFS",
    "is_index",
    "is_layer",
    "is_manifest",
]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER + "+gzip"
LAYER_ZSTD = LAYER + "+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
REFERENCE_ANNOTATION = "org.opencontainers.image.ref.name"

_LAYERS = {
    LAYER,
    LAYER_GZIP,
    LAYER_ZSTD,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    DOCKER_LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
}


def is_manifest(media_type: str | None) -> bool:
    return media_type in (MANIFEST, DOCKER_MANIFEST)


def is_index(media_type: str | None) -> bool:
    return media_type in (INDEX, DOCKER_INDEX)


def is_layer(media_type: str) -> bool:
    """Whether a descriptor of this type holds a tar we can unpack, compressed or not."""
    return media_type in _LAYERS


class Descriptor(Record):
    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    artifact_type: str | None = None


class Manifest(Record):
    schema_version: int
    config: Descriptor
    media_type: str | None = None
    artifact_type: str | None = None
    layers: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Index(Record):
    schema_version: int
    media_type: str | None = None
    artifact_type: str | None = None
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Healthcheck(Record):
    json_names: ClassVar[dict[str, str]] = {
        "test": "Test",
        "interval": "Interval",
        "timeout": "Timeout",
        "start_period": "StartPeriod",
        "start_interval": "StartInterval",
        "retries": "Retries",
    }

    test: tuple[str, ...] = ()
    interval: int | None = None
    timeout: int | None = None
    start_period: int | None = None
    start_interval: int | None = None
    retries: int | None = None


class ImageConfig(Record):
    """What a container made from the image inherits (config.md, member ``config``)."""

    json_names: ClassVar[dict[str, str]] = {
        "user": "User",
        "exposed_ports": "ExposedPorts",
        "env": "Env",
        "entrypoint": "Entrypoint",
        "cmd": "Cmd",
        "volumes": "Volumes",
        "working_dir": "WorkingDir",
        "labels": "Labels",
        "stop_signal": "StopSignal",
        "stop_timeout": "StopTimeout",
        "args_escaped": "ArgsEscaped",
        "healthcheck": "Healthcheck",
        "on_build": "OnBuild",
        "shell": "Shell",
    }

    user: str = ""
    exposed_ports: dict[str, object] = {}
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: dict[str, object] = {}
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str | None = None
    stop_timeout: int | None = None
    args_escaped: bool | None = None
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()


class RootFS(Record):
    json_names: ClassVar[dict[str, str]] = {"diff_ids": "diff_ids"}

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class History(Record):
    json_names: ClassVar[dict[str, str]] = {
        "created_by": "created_by",
        "empty_layer": "empty_layer",
    }

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class Image(Record):
    """The image configuration document; its digest is the image's ID."""

    json_names: ClassVar[dict[str, str]] = {
        "os_version": "os.version",
        "os_features": "os.features",
        "docker_version": "docker_version",
    }

    architecture: str
    os: str
    created: str | None = None
    author: str | None = None
    variant: str | None = None
    os_version: str | None = None
    os_features: tuple[str, ...] = ()
    config: ImageConfig = ImageConfig()
    rootfs: RootFS
    history: tuple[History, ...] = ()
    comment: str | None = None
    docker_version: str | None = None

    def check(self) -> None:
        """Refuse what no engine could run.

        The history's count of layers is not held against ``diff_ids``: some builders get it wrong.
        """
        if self.rootfs.type != "layers":
            raise InvalidArgument(
                f'image configuration: rootfs.type "{self.rootfs.type}" is not "layers"'
            )
        for diff_id in self.rootfs.diff_ids:
            digests.parse(diff_id)
