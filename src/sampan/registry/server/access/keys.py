"""Public keys that another token server signs with: a JSON Web Key Set (RFC 7517), or certificates
and public keys in PEM, as Docker's registry has them in its ``rootcertbundle``.

A key has one algorithm, by what it is: RS256 for RSA, ES256 for P-256 (RFC 7518). A token never
chooses: that is how a public key was taken for an HMAC secret, and "none" for an algorithm
(CVE-2015-9235, CVE-2016-10555, CVE-2015-2951, CVE-2022-29217). A key in PEM has two names: its
thumbprint (RFC 7638), and the one that Docker's first token servers use (base 32 of 240 bits of a
SHA-256, in groups of four).

Keys and signatures are those of ``cryptography`` (docs/decisions/0030).
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    PublicKey = RSAPublicKey | EllipticCurvePublicKey

__all__ = ["Key", "Keys", "decode", "read_keys"]

_FLAG = "--token-keys"
_LIMIT = 1 << 20
_LEAST_BITS = 2048
_COORDINATE = 32
"""Bytes of a number of P-256; a signature is two of them (RFC 7518, section 3.4)."""
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_SECRET = {"d", "p", "q", "k"}


class Key(NamedTuple):
    algorithm: str
    public: PublicKey

    def verify(self, signature: bytes, data: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            if isinstance(self.public, rsa.RSAPublicKey):
                self.public.verify(signature, data, padding.PKCS1v15(), SHA256())
                return True
            if len(signature) != 2 * _COORDINATE:
                return False
            pair = (signature[:_COORDINATE], signature[_COORDINATE:])
            numbers = (int.from_bytes(one, "big") for one in pair)
            encoded = utils.encode_dss_signature(*numbers)
            self.public.verify(encoded, data, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


class Keys(NamedTuple):
    """``named`` by identifier, ``certificates`` by their bytes in base 64; ``ignored`` says what of
    the file is not for us, and why.
    """

    named: dict[str, Key]
    certificates: dict[str, Key]
    only: Key | None
    ignored: tuple[str, ...]


class _Jwk(msgspec.Struct):
    kty: str
    kid: str = ""
    alg: str = ""
    use: str = ""
    key_ops: tuple[str, ...] = ()
    crv: str = ""
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""


class _Set(msgspec.Struct):
    keys: tuple[dict[str, object], ...]


def decode(text: str) -> bytes:
    """Base 64 for URLs, without padding (RFC 7515, section 2). Raises ValueError."""
    if "=" in text:
        raise ValueError("padding")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def read_keys(path: str) -> Keys:
    """Raises InvalidArgument."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
    except ImportError as error:
        raise InvalidArgument(
            f"{_FLAG} {path}: this needs cryptography: pip install 'sampan[tokens]'"
        ) from error
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT)
    except OSError as error:
        raise InvalidArgument(f"{_FLAG} {path}: {error.strerror}") from error
    ignored: list[str] = []
    certificates: dict[str, Key] = {}
    named: dict[str, Key] = {}
    keys: list[Key] = []
    is_set = data.lstrip()[:1] == b"{"
    try:
        found = _from_set(data, ignored) if is_set else _from_pem(data, certificates)
        for names, key in found:
            if key not in keys:
                keys.append(key)
            for name in names:
                if name in named and named[name] != key:
                    raise ValueError(f'two keys are called "{name}"')
                named[name] = key
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(f"{_FLAG} {path}: {error}") from error
    if not keys:
        why = f": {'; '.join(ignored)}" if ignored else ""
        raise InvalidArgument(f"{_FLAG} {path}: there is no key in it for RS256 or ES256{why}")
    only = keys[0] if len(keys) == 1 else None
    return Keys(named, certificates, only, tuple(ignored))


def _from_pem(data: bytes, certificates: dict[str, Key]) -> Iterable[tuple[list[str], Key]]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

    for match in _BLOCK.finditer(data):
        kind, block = match[1].decode("ascii"), match[0]
        if "PRIVATE" in kind:
            raise ValueError("a private key has no place here: give its certificate or public key")
        if kind == "CERTIFICATE":
            certificate = x509.load_pem_x509_certificate(block)
            key = _key(certificate.public_key())
            name = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode("ascii")
            certificates[name] = key
        elif kind == "PUBLIC KEY":
            key = _key(load_pem_public_key(block))
        else:
            raise ValueError(f"{kind}: expected CERTIFICATE or PUBLIC KEY")
        yield [_thumbprint(key), _fingerprint(_der(key.public))], key


def _from_set(data: bytes, ignored: list[str]) -> Iterable[tuple[list[str], Key]]:
    from cryptography.exceptions import UnsupportedAlgorithm

    for number, members in enumerate(msgspec.json.decode(data, type=_Set).keys, 1):
        where = f"key {number}"
        if _SECRET & members.keys():
            raise ValueError(f"{where} is secret: only public keys have a place here")
        one = msgspec.convert(members, _Jwk)
        where = f'key "{one.kid}"' if one.kid else where
        try:
            key = _of_jwk(one)
        except (ValueError, UnsupportedAlgorithm) as error:
            # What a set has for others is ignored (RFC 7517, section 5), and told.
            ignored.append(f"{where}: {error}")
            continue
        yield [one.kid or _thumbprint(key)], key


def _of_jwk(one: _Jwk) -> Key:
    """Raises ValueError, UnsupportedAlgorithm."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if one.use not in ("", "sig") or (one.key_ops and "verify" not in one.key_ops):
        raise ValueError("not for signatures")
    public: PublicKey
    if one.kty == "RSA":
        modulus, exponent = (int.from_bytes(decode(text), "big") for text in (one.n, one.e))
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    elif one.kty == "EC" and one.crv == "P-256":
        x, y = (int.from_bytes(decode(text), "big") for text in (one.x, one.y))
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    else:
        raise ValueError(f"kty {one.kty} {one.crv}".rstrip() + ": use RSA, or EC with P-256")
    key = _key(public)
    if one.alg not in ("", key.algorithm):
        raise ValueError(f"alg {one.alg}: use {key.algorithm}")
    return key


def _key(public: object) -> Key:
    """Raises ValueError."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < _LEAST_BITS:
            raise ValueError(f"an RSA key of {public.key_size} bits: at least {_LEAST_BITS}")
        return Key("RS256", public)
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return Key("ES256", public)
    raise ValueError("a key that is neither RSA nor of P-256")


def _thumbprint(key: Key) -> str:
    """RFC 7638: SHA-256 of the members that make the key, in the order of their names."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    numbers = key.public.public_numbers()
    if isinstance(numbers, rsa.RSAPublicNumbers):
        parts = {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}
    else:
        x, y = (_encode(one.to_bytes(_COORDINATE, "big")) for one in (numbers.x, numbers.y))
        parts = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
    return _encode(hashlib.sha256(msgspec.json.encode(parts)).digest())


def _number(number: int) -> str:
    return _encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _der(public: PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _fingerprint(der: bytes) -> str:
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode("ascii")
    return ":".join(text[at : at + 4] for at in range(0, len(text), 4))
