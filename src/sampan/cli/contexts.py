"""The store of contexts: named daemons, in the form Docker's client keeps them.

contexts/meta/<sha256 of the name>/meta.json
contexts/tls/<sha256 of the name>/docker/{ca,cert,key}.pem
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any

from sampan.cli.settings import Endpoint, Tls
from sampan.errors import AlreadyExists, InvalidArgument, NotFound

__all__ = ["TLS_FILES", "Context", "Store", "valid_name"]

TLS_FILES = ("ca.pem", "cert.pem", "key.pem")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]+")


def valid_name(name: str) -> str:
    """The name itself. Raises InvalidArgument."""
    if name == "default":
        raise InvalidArgument('context "default": the name is reserved')
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"context {name!r}: a name has two or more letters, digits, _ . + - "
            "and begins with a letter or digit"
        )
    return name


class Context:
    """One context: ``tls`` are its files' contents by name."""

    __slots__ = ("description", "host", "name", "skip_verify", "tls")

    def __init__(
        self,
        name: str,
        host: str,
        description: str = "",
        skip_verify: bool = False,
        tls: dict[str, bytes] | None = None,
    ) -> None:
        self.name = name
        self.host = host
        self.description = description
        self.skip_verify = skip_verify
        self.tls = tls or {}

    @property
    def document(self) -> dict[str, Any]:
        """``meta.json``'s value."""
        return {
            "Name": self.name,
            "Metadata": {"Description": self.description} if self.description else {},
            "Endpoints": {"docker": {"Host": self.host, "SkipTLSVerify": self.skip_verify}},
        }


class Store:
    """The contexts of one configuration directory."""

    def __init__(self, directory: str) -> None:
        self._root = os.path.join(directory, "contexts")

    def meta_path(self, name: str) -> str:
        """The directory of ``meta.json``."""
        return os.path.join(self._root, "meta", _digest(name))

    def tls_path(self, name: str) -> str:
        """The directory of ``docker/*.pem``."""
        return os.path.join(self._root, "tls", _digest(name))

    def names(self) -> list[str]:
        """Every context's, sorted, without "default"."""
        try:
            entries = os.listdir(os.path.join(self._root, "meta"))
        except FileNotFoundError:
            return []
        found = [self._read(os.path.join(self._root, "meta", entry)) for entry in entries]
        return sorted(str(document["Name"]) for document in found if document)

    def get(self, name: str) -> Context:
        """Raises NotFound, InvalidArgument."""
        document = self._read(self.meta_path(name))
        if document is None:
            raise NotFound(f'context "{name}" does not exist: see the names with: context ls')
        try:
            docker = document["Endpoints"]["docker"]
            host = str(docker["Host"])
        except (KeyError, TypeError):
            raise InvalidArgument(f'context "{name}" has no docker endpoint') from None
        metadata = document.get("Metadata") or {}
        return Context(
            name,
            host,
            str(metadata.get("Description") or ""),
            bool(docker.get("SkipTLSVerify")),
            self._files(name),
        )

    def endpoint(self, name: str) -> Endpoint:
        """How to reach a context's daemon. Raises NotFound, InvalidArgument."""
        context = self.get(name)
        if not (context.tls or context.skip_verify):
            return Endpoint(context.host)
        place = os.path.join(self.tls_path(name), "docker")
        ca, cert, key = (
            os.path.join(place, file) if file in context.tls else "" for file in TLS_FILES
        )
        return Endpoint(context.host, Tls(ca, cert, key, verify=not context.skip_verify))

    def put(self, context: Context, *, replace: bool = False) -> None:
        """Store it; ``meta.json`` appears last, and whole. Raises AlreadyExists."""
        meta = self.meta_path(valid_name(context.name))
        if not replace and os.path.exists(f"{meta}/meta.json"):
            raise AlreadyExists(f'context "{context.name}" exists already')
        place = os.path.join(self.tls_path(context.name), "docker")
        for name in TLS_FILES:
            if name in context.tls:
                os.makedirs(place, mode=0o700, exist_ok=True)
                _write(os.path.join(place, name), context.tls[name], 0o600)
            elif os.path.exists(os.path.join(place, name)):
                os.unlink(os.path.join(place, name))
        os.makedirs(meta, mode=0o755, exist_ok=True)
        text = json.dumps(context.document, separators=(",", ":"), ensure_ascii=False)
        _write(f"{meta}/meta.json", text.encode(), 0o644)

    def remove(self, name: str) -> None:
        """Raises NotFound."""
        meta, tls = self.meta_path(name), self.tls_path(name)
        try:
            os.unlink(f"{meta}/meta.json")
        except FileNotFoundError:
            raise NotFound(f'context "{name}" does not exist') from None
        os.rmdir(meta)
        if os.path.isdir(f"{tls}/docker"):
            for file in os.listdir(f"{tls}/docker"):
                os.unlink(f"{tls}/docker/{file}")
            os.rmdir(f"{tls}/docker")
            os.rmdir(tls)

    def _read(self, meta: str) -> dict[str, Any] | None:
        try:
            with open(f"{meta}/meta.json", "rb") as file:
                document = json.loads(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise InvalidArgument(f"{meta}/meta.json: not JSON: {error}") from error
        return document if isinstance(document, dict) else None

    def _files(self, name: str) -> dict[str, bytes]:
        found = {}
        for file in TLS_FILES:
            try:
                with open(os.path.join(self.tls_path(name), "docker", file), "rb") as stream:
                    found[file] = stream.read()
            except FileNotFoundError:
                continue
        return found


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _write(path: str, data: bytes, mode: int) -> None:
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
    os.rename(temporary, path)
