"""A certificate authority of a test's own, made by ``openssl``."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_certificates"]


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_certificates(place: Path) -> Path:
    """``ca.pem``, and ``cert.pem`` with ``key.pem`` in ``server``, ``client`` and ``stranger``.

    The stranger's is signed by itself. The names are what the Docker client looks for.
    """
    place.mkdir()
    subject = ("-subj", "/CN=sampan test CA")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl("req", "-x509", *curve, "-keyout", str(place / "ca.key"), "-out",
             str(place / "ca.pem"), *subject, "-days", "2")  # fmt: skip
    uses = {"server": "serverAuth", "client": "clientAuth", "stranger": "clientAuth"}
    for name, use in uses.items():
        home = place / name
        home.mkdir()
        (home / "ca.pem").write_bytes((place / "ca.pem").read_bytes())
        key, request, certificate = home / "key.pem", home / "request", home / "cert.pem"
        more = ("-subj", f"/CN={name}", "-addext", f"extendedKeyUsage={use}", "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key))  # fmt: skip
        if name == "stranger":
            _openssl("req", "-x509", *curve, *more, "-out", str(certificate), "-days", "2")
            continue
        _openssl("req", "-new", *curve, *more, "-out", str(request))
        _openssl("x509", "-req", "-in", str(request), "-CA", str(place / "ca.pem"), "-CAkey",
                 str(place / "ca.key"), "-out", str(certificate), "-days", "2",
                 "-copy_extensions", "copy")  # fmt: skip
    return place
