"""TLS towards a registry: whom we trust, and who we are.

The machine's certificate authorities, and for one host those of ``certs.d/<host[:port]>``, Docker's
convention: ``*.crt`` are authorities, ``*.cert`` with a ``*.key`` of the same name is shown as our
own certificate. TLS 1.2 at least (RFC 8996).
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Trust"]


class Trust:
    """Makes contexts, and keeps them while the files they were made from are the same."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = tuple(directories)
        self._made: dict[tuple[object, ...], ssl.SSLContext] = {}

    def context(self, host: str, *, verify: bool) -> ssl.SSLContext:
        """For ``host[:port]``. Raises InvalidArgument for a certificate that cannot be read."""
        files = tuple(self._files(host))
        key = (host, verify, files)
        if key not in self._made:
            self._made = {known: made for known, made in self._made.items() if known[0] != host}
            self._made[key] = _make([path for path, _ in files], verify)
        return self._made[key]

    def _files(self, host: str) -> Iterator[tuple[str, int]]:
        for directory in self._directories:
            place = f"{directory}/{host}"
            try:
                names = sorted(os.listdir(place))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in names:
                if name.endswith((".crt", ".cert", ".key")):
                    yield f"{place}/{name}", os.stat(f"{place}/{name}").st_mtime_ns


def _make(files: list[str], verify: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if verify:
        context.load_default_certs()
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path in files:
        try:
            if path.endswith(".crt"):
                context.load_verify_locations(path)
            elif path.endswith(".cert"):
                key = f"{path.removesuffix('.cert')}.key"
                if key not in files:
                    raise InvalidArgument(f"{path}: missing key {key} for this certificate")
                context.load_cert_chain(path, key)
            elif f"{path.removesuffix('.key')}.cert" not in files:
                raise InvalidArgument(f"{path}: missing the certificate of this key")
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(f"{path}: not a certificate in PEM: {error}") from error
    return context
