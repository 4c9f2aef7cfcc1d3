"""Manifests of images on their way into a manifest list, and where Docker's client keeps them.

A list that is made by hand stands in ``manifests`` of the configuration directory until it is
pushed: a directory a list, a file an image, in the form of Docker's client, so that either client
goes on with what the other began. What is pushed at last is an OCI image index, or a manifest list
of schema 2 (``application/vnd.docker.distribution.manifest.list.v2+json``).

Such documents are known by the digest of their bytes: they are kept as they came (``raw``), and
shown with another indentation only, each string and number as it was written.
"""

from __future__ import annotations

import errno
import json
import os
import re
from typing import Any

from sampan.errors import Corrupt, InvalidArgument, NotFound
from sampan.oci import image as oci
from sampan.oci import reference as references

__all__ = [
    "ImageManifest",
    "ManifestStore",
    "assembled",
    "indented",
    "named",
    "platform_of",
    "safe_html",
]

# Go's platforms, as far as anybody makes images for them: what `annotate` lets a manifest claim.
_PLATFORMS = {
    "aix": "ppc64",
    "android": "386 amd64 arm arm64",
    "darwin": "386 amd64 arm arm64",
    "dragonfly": "amd64",
    "freebsd": "386 amd64 arm arm64 riscv64",
    "illumos": "amd64",
    "js": "wasm",
    "linux": "386 amd64 arm arm64 loong64 mips mipsle mips64 mips64le ppc64 ppc64le riscv64 s390x",
    "netbsd": "386 amd64 arm arm64",
    "openbsd": "386 amd64 arm arm64 ppc64 riscv64",
    "plan9": "386 amd64 arm",
    "solaris": "amd64",
    "wasip1": "wasm",
    "windows": "386 amd64 arm arm64",
}
_PLATFORM_KEYS = ("architecture", "os", "os.version", "os.features", "variant")
_MEMBERS = {oci.DOCKER_MANIFEST: "SchemaV2Manifest", oci.MANIFEST: "OCIManifest"}
_tokens = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+').findall
_OPEN, _CLOSE = ("{", "["), ("}", "]")


def named(text: str) -> references.Reference:
    """A name with a tag, ``latest`` by default, or a digest. Raises InvalidArgument."""
    return references.parse(text).tagged()


def platform_of(values: object) -> dict[str, Any]:
    """A platform of a JSON object that has its keys, among others: in their order, empty ones left
    out but two. Raises InvalidArgument."""
    known = values if isinstance(values, dict) else {}
    found = {key: known[key] for key in _PLATFORM_KEYS if known.get(key)}
    features = found.get("os.features", [])
    words = [value for key, value in found.items() if key != "os.features"]
    if not isinstance(features, list) or not all(isinstance(w, str) for w in [*words, *features]):
        raise InvalidArgument(f"not a platform: {json.dumps(found)[:200]}")
    return {"architecture": "", "os": ""} | found


class ImageManifest:
    """One image's manifest: ``descriptor`` is what a list says of it."""

    __slots__ = ("descriptor", "raw", "reference")

    def __init__(
        self, reference: references.Reference, descriptor: dict[str, Any], raw: bytes
    ) -> None:
        self.reference = reference
        self.descriptor = descriptor
        self.raw = raw

    @property
    def digest(self) -> str:
        return str(self.descriptor["digest"])

    @property
    def platform(self) -> dict[str, Any]:
        found = self.descriptor.get("platform")
        return found if isinstance(found, dict) else {}

    def blobs(self) -> list[str]:
        """Digests of its configuration and layers. Raises Corrupt."""
        try:
            document = oci.Manifest.from_json(json.loads(self.raw))
        except (ValueError, RecursionError, InvalidArgument) as error:
            raise Corrupt(f"manifest {self.reference}: {error}") from error
        return [document.config.digest, *(layer.digest for layer in document.layers)]

    def annotate(self, changes: dict[str, str], features: list[str]) -> None:
        """Say more of its platform; ``features`` are added. Raises InvalidArgument."""
        platform = platform_of(self.platform)
        platform.update({key: value for key, value in changes.items() if value})
        if features:
            known = list(platform.get("os.features") or [])
            platform["os.features"] = list(dict.fromkeys([*known, *features]))
        system, architecture = platform["os"], platform["architecture"]
        if architecture not in _PLATFORMS.get(system, "").split():
            raise InvalidArgument(
                "manifest entry for image has unsupported os/arch combination: "
                f"{system}/{architecture}"
            )
        self.descriptor = {**self.descriptor, "platform": platform_of(platform)}

    def text(self, indent: str | None) -> str:
        """The JSON that Docker's client keeps and shows; compact with None."""
        import base64

        space = " " if indent is not None else ""
        fields = {
            "Ref": json.dumps(str(self.reference), ensure_ascii=False),
            "Descriptor": json.dumps(self.descriptor, ensure_ascii=False),
            "Raw": json.dumps(base64.b64encode(self.raw).decode("ascii")),
            _MEMBERS.get(self.descriptor["mediaType"], "OCIManifest"): self.raw.decode(),
        }
        whole = ",".join(f'"{key}":{space}{value}' for key, value in fields.items())
        return safe_html(indented(f"{{{whole}}}", indent))


def safe_html(text: str) -> str:
    """JSON as Go writes it: with what could end a script element escaped."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def indented(text: str, indent: str | None) -> str:
    """JSON, each token as it is written, with another indentation; None for none at all."""
    if indent is None:
        return "".join(_tokens(text))
    out: list[str] = []
    depth, opened = 0, False
    for token in _tokens(text):
        if token in _CLOSE:
            depth -= 1
            if not opened:
                out.append("\n" + indent * depth)
        elif opened:
            out.append("\n" + indent * depth)
        opened = token in _OPEN
        depth += opened
        out.append(token)
        if token == ",":
            out.append("\n" + indent * depth)
        elif token == ":":
            out.append(" ")
    return "".join(out)


def assembled(target: references.Reference, manifests: list[ImageManifest]) -> tuple[str, str]:
    """Media type and text of the list that these make. Raises InvalidArgument.

    It is an index of OCI if its first entry is an OCI manifest, as Docker's client has it.
    """
    entries = []
    for manifest in manifests:
        if manifest.reference.domain != target.domain:
            raise InvalidArgument(
                "cannot use source images from a different registry than the target image: "
                f"{manifest.reference.domain} != {target.domain}"
            )
        known = manifest.descriptor
        entry = {"mediaType": known["mediaType"], "size": known["size"], "digest": manifest.digest}
        entries.append({**entry, "platform": platform_of(manifest.platform)})
    is_oci = bool(entries) and entries[0]["mediaType"] == oci.MANIFEST
    kind = oci.INDEX if is_oci else oci.DOCKER_INDEX
    document = {"schemaVersion": 2, "mediaType": kind, "manifests": entries}
    return kind, safe_html(json.dumps(document, indent=3, ensure_ascii=False))


class ManifestStore:
    """The lists under one configuration directory.

    A list comes and goes whole (a directory, renamed), and so does each image in it (a file).
    """

    def __init__(self, directory: str) -> None:
        self._root = os.path.join(directory, "manifests")

    def members(self, target: references.Reference) -> list[ImageManifest]:
        """A list's images in the order of their names. Raises NotFound."""
        place = self._place(target)
        try:
            names = sorted(os.listdir(place))
        except (FileNotFoundError, NotADirectoryError):
            names = []
        if not names:
            raise NotFound(f"No such manifest: {target}")
        return [_read(os.path.join(place, name)) for name in names]

    def get(self, target: references.Reference, image: references.Reference) -> ImageManifest:
        """One image of a list. Raises NotFound."""
        try:
            return _read(os.path.join(self._place(target), _file_name(image)))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"No such manifest: {image}") from None

    def has(self, target: references.Reference) -> bool:
        try:
            return bool(os.listdir(self._place(target)))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def save(self, target: references.Reference, manifests: list[ImageManifest]) -> None:
        """Put images into a list, which is made if need be. Raises OSError."""
        place, beside = self._place(target), os.path.join(self._root, f".new-{os.getpid()}")
        os.makedirs(self._root, exist_ok=True)
        self._sweep()
        os.mkdir(beside)
        try:
            for manifest in manifests:
                name = os.path.join(beside, _file_name(manifest.reference))
                with open(name, "x", encoding="utf-8") as file:
                    file.write(manifest.text(None))
            try:
                os.rename(beside, place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                for manifest in manifests:  # the list is there: each takes its place in it
                    name = _file_name(manifest.reference)
                    os.rename(os.path.join(beside, name), os.path.join(place, name))
        finally:
            _remove(beside)

    def remove(self, target: references.Reference) -> None:
        """Forget a list. Raises NotFound."""
        gone = os.path.join(self._root, f".gone-{os.getpid()}")
        try:
            os.rename(self._place(target), gone)
        except FileNotFoundError:
            raise NotFound(f"No such manifest: {target}") from None
        _remove(gone)

    def _sweep(self) -> None:
        """Remove what clients have left that died in the middle."""
        for name in os.listdir(self._root):
            pid = name.rpartition("-")[2]
            if name.startswith((".new-", ".gone-")) and not os.path.exists(f"/proc/{pid}"):
                _remove(os.path.join(self._root, name))

    def _place(self, target: references.Reference) -> str:
        return os.path.join(self._root, _file_name(target))


def _file_name(reference: references.Reference) -> str:
    return str(reference).replace(":", "-").replace("/", "_")


def _remove(place: str) -> None:
    """A directory of files, if it is there."""
    try:
        names = os.listdir(place)
    except FileNotFoundError:
        return
    for name in names:
        os.unlink(os.path.join(place, name))
    os.rmdir(place)


def _read(path: str) -> ImageManifest:
    """An image of a list, from its file. Raises FileNotFoundError, Corrupt."""
    import base64

    with open(path, "rb") as file:
        data = file.read()
    try:
        known = json.loads(data)
        reference, descriptor = references.parse(known["Ref"]), known["Descriptor"]
        raw = base64.b64decode(known.get("Raw") or "", validate=True)
        if not raw:  # of a client that did not keep it: it was indented so
            member = known.get("SchemaV2Manifest") or known["OCIManifest"]
            raw = json.dumps(member, indent=3, ensure_ascii=False).encode()
        if not isinstance(descriptor["size"], int) or not all(
            isinstance(descriptor[key], str) for key in ("mediaType", "digest")
        ):
            raise InvalidArgument("its descriptor is not one")
    except (ValueError, TypeError, KeyError, RecursionError, InvalidArgument) as error:
        raise Corrupt(
            f"{path}: not an image's manifest ({error}): remove the list with 'sampan manifest rm'"
        ) from error
    return ImageManifest(reference, descriptor, raw)
