"""Tokens of another server, made by PyJWT or by hand, and what is made to look like them; Debian's
docker-registry has the same keys and must say the same of each.
"""

from __future__ import annotations

import base64
import datetime
import hmac
import json
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sampan.cli.client import Client
from sampan.cli.commands.registry import serve
from sampan.errors import InvalidArgument
from sampan.registry.server.access.foreign import Foreign
from sampan.registry.server.access.keys import read_keys
from sampan.registry.server.errors import Unauthorized

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
ISSUER, SERVICE = "sampan-tests", "tests"
NOW = 1_800_000_000.0


class Signer(NamedTuple):
    """A key of a token server, and its certificate in PEM."""

    private: Any
    certificate: bytes

    @property
    def algorithm(self) -> str:
        return "RS256" if isinstance(self.private, rsa.RSAPrivateKey) else "ES256"

    def jwk(self, **more: Any) -> dict[str, Any]:
        found = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key())
        return {key: value for key, value in json.loads(found).items() if key != "key_ops"} | more

    def sign(self, claims: dict[str, Any], **head: Any) -> str:
        return jwt.encode(claims, self.private, head.pop("alg", self.algorithm), head)


def signer(kind: str) -> Signer:
    private: Any = (
        rsa.generate_private_key(65537, 2048) if kind == "RSA" else _curve(ec.SECP256R1())
    )
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tokens")])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, private.public_key(), 1, now - day, now + day)
    certificate = made.sign(private, hashes.SHA256())
    return Signer(private, certificate.public_bytes(PEM))


def _curve(curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve)


@pytest.fixture(scope="module")
def signers() -> dict[str, Signer]:
    return {"rsa": signer("RSA"), "curve": signer("EC"), "other": signer("RSA")}


def claims(now: float, **more: Any) -> dict[str, Any]:
    access = [{"type": "repository", "name": "team/box", "actions": ["pull"]}]
    said = {"iss": ISSUER, "sub": "anna", "aud": SERVICE, "exp": int(now) + 300, "access": access}
    return {key: value for key, value in {**said, **more}.items() if value is not None}


def raw(head: object, body: object, signature: bytes) -> str:
    parts = [json.dumps(one).encode() for one in (head, body)]
    return ".".join(
        base64.urlsafe_b64encode(one).decode().rstrip("=") for one in (*parts, signature)
    )


def of_set(place: Path, *keys: dict[str, Any]) -> Path:
    path = place / "keys"
    path.write_text(json.dumps({"keys": keys}))
    return path


def named(pem: bytes, place: Path) -> list[str]:
    """A key's names, as we make them."""
    (place / "one").write_bytes(pem)
    return list(read_keys(str(place / "one")).named)


# -- one token -----------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path, signers: dict[str, Signer]) -> Foreign:
    path = of_set(tmp_path, signers["rsa"].jwk(kid="r"), signers["curve"].jwk(kid="c"))
    return Foreign(read_keys(str(path)), ISSUER, SERVICE, lambda: NOW)


@pytest.mark.parametrize(("name", "kid"), [("rsa", "r"), ("curve", "c")])
def test_what_is_signed_for_us_is_taken(
    foreign: Foreign, signers: dict[str, Signer], name: str, kid: str
) -> None:
    one = signers[name]
    found = foreign.verify(one.sign(claims(NOW), kid=kid))
    assert (found.sub, found.access[0].actions) == ("anna", ("pull",))
    # Several audiences; a clock that is half a minute off, either way; nothing allowed.
    for more in (
        {"aud": ["x", SERVICE]},
        {"exp": NOW - 30},
        {"nbf": NOW + 30},
        {"access": [{"type": "repository", "name": "a", "actions": None}], "sub": None},
    ):
        foreign.verify(one.sign(claims(NOW, **more), kid=kid))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"exp": NOW - 61}, "has expired"),
        ({"nbf": NOW + 61}, "not good yet"),
        ({"exp": None}, "missing required field `exp`"),
        ({"exp": "tomorrow"}, "claims cannot be read"),
        ({"aud": "other"}, "for another service"),
        ({"aud": []}, "for another service"),
        ({"aud": None}, "missing required field `aud`"),
        ({"iss": "other"}, "of another issuer"),
        ({"iss": None}, "missing required field `iss`"),
        ({"access": [{"type": "repository"}]}, "claims cannot be read"),
    ],
)
def test_what_is_not_for_us_or_not_now_is_refused(
    foreign: Foreign, signers: dict[str, Signer], more: dict[str, Any], why: str
) -> None:
    # Not by PyJWT, which looks at what it signs.
    key = signers["rsa"].private
    head, body = {"alg": "RS256", "kid": "r"}, claims(NOW, **more)
    token = raw(head, body, signed(key, head, body))
    with pytest.raises(Unauthorized, match=why):
        foreign.verify(token)


def signed(key: Any, head: object, body: object) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import padding

    text = raw(head, body, b"").rpartition(".")[0]
    return bytes(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))


def forged(signers: dict[str, Signer], now: float, rsa_kid: str, curve_kid: str) -> dict[str, str]:
    """Tokens that look as if the first signer had made them."""
    one, other = signers["rsa"], signers["other"]
    body = claims(now)
    good = one.sign(body, kid=rsa_kid)
    public = one.private.public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    found = {
        # CVE-2015-2951 and its like
        "none": raw({"alg": "none", "kid": rsa_kid}, body, b""),
        "None": raw({"alg": "None", "kid": rsa_kid}, body, b"x"),
        "no signature": good.rpartition(".")[0] + ".",
        "another key's": other.sign(body, kid=rsa_kid),
        "another key, by its own name": other.sign(body, kid="mine"),
        # CVE-2018-0114, CVE-2025-24976: it brings its key along
        "its own jwk": other.sign(body, kid=rsa_kid, jwk=other.jwk(kid=rsa_kid)),
        "its own certificate": other.sign(body, x5c=[base64.b64encode(other.certificate).decode()]),
        # CVE-2022-21449: a signature of zeros
        "zeros": raw({"alg": "ES256", "kid": curve_kid}, body, bytes(64)),
        "another algorithm": one.sign(body, alg="PS256", kid=rsa_kid),
        "a longer hash": one.sign(body, alg="RS512", kid=rsa_kid),
        "the other kind's key": one.sign(body, kid=curve_kid),
        "other claims": ".".join(
            (
                good.split(".")[0],
                raw({}, claims(now, sub="root"), b"").split(".")[1],
                good.split(".")[2],
            )
        ),
        "no words": "a.b.c",
        "nothing": "..",
        "four parts": good + ".x",
    }
    # CVE-2015-9235, CVE-2016-10555, CVE-2017-11424, CVE-2022-29217: the public key as a secret
    for form, kind in (("PEM", PEM), ("DER", serialization.Encoding.DER)):
        secret = public.public_bytes(kind, spki)
        for more in ({"kid": rsa_kid}, {"typ": "JWT"}):
            head = {"alg": "HS256", **more}
            text = raw(head, body, b"").rpartition(".")[0].encode()
            name = f"a public key as a secret, {form} {list(more)}"
            found[name] = raw(head, body, hmac.digest(secret, text, "sha256"))
    return found


def test_what_is_made_to_look_signed_is_refused(
    foreign: Foreign, signers: dict[str, Signer]
) -> None:
    foreign.verify(signers["rsa"].sign(claims(NOW), kid="r"))
    made = forged(signers, NOW, "r", "c")
    made["by which key is not said"] = signers["rsa"].sign(claims(NOW))
    made["extensions"] = signers["rsa"].sign(claims(NOW), kid="r", crit=["x"], x=1)
    made["a signature in DER"] = raw(
        {"alg": "ES256", "kid": "c"},
        claims(NOW),
        signers["curve"].private.sign(
            raw({"alg": "ES256", "kid": "c"}, claims(NOW), b"").rpartition(".")[0].encode(),
            ec.ECDSA(hashes.SHA256()),
        ),
    )
    made["long"] = "x" * 100_000
    made["deep"] = raw({}, {}, b"").replace("e30", "W1tb" * 10_000)
    made["\u00e4"] = "\u00e4.\u00e4.\u00e4"
    for what, token in made.items():
        with pytest.raises(Unauthorized):
            pytest.fail(f"{what}: {foreign.verify(token)}")


# -- files ---------------------------------------------------------------------------------------


def test_a_key_in_pem_is_called_by_its_thumbprint_and_as_docker_does(
    tmp_path: Path, signers: dict[str, Signer]
) -> None:
    # RFC 7638's own example (section 3.1).
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECP"
        "ebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY"
        "368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0f"
        "M4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    path = of_set(tmp_path, {"kty": "RSA", "n": modulus, "e": "AQAB"})
    assert list(read_keys(str(path)).named) == ["NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"]
    for name in ("rsa", "curve"):
        public = signers[name].private.public_key()
        info = serialization.PublicFormat.SubjectPublicKeyInfo
        names = named(public.public_bytes(PEM, info), tmp_path)
        assert names == named(signers[name].certificate, tmp_path)
        assert len(names[0]) == 43
        assert [len(part) for part in names[1].split(":")] == [4] * 12
        alone = read_keys(str(tmp_path / "one"))
        token = signers[name].sign(claims(NOW))
        assert Foreign(alone, ISSUER, SERVICE, lambda: NOW).verify(token).sub == "anna"


def test_of_a_set_what_is_for_others_is_left_alone_and_told(
    tmp_path: Path, signers: dict[str, Signer]
) -> None:
    one = signers["rsa"]
    small = Signer(rsa.generate_private_key(65537, 1024), b"")
    path = of_set(
        tmp_path,
        one.jwk(kid="good"),
        one.jwk(kid="enc", use="enc"),
        one.jwk(kid="ops", key_ops=["encrypt"]),
        one.jwk(kid="long", alg="RS512"),
        small.jwk(kid="small"),
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "ed"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "off the curve"},
        {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "unreadable"},
    )
    keys = read_keys(str(path))
    assert list(keys.named) == ["good"]
    assert len(keys.ignored) == 7
    assert keys.only is not None


def test_files_of_no_keys_are_refused(tmp_path: Path, signers: dict[str, Signer]) -> None:
    one = signers["rsa"]
    private = one.private.private_bytes(PEM, PKCS8, serialization.NoEncryption())
    secret = jwt.get_algorithm_by_name("RS256").to_jwk(one.private)
    p384 = _curve(ec.SECP384R1()).public_key()
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    for data, why in (
        (b"", "there is no key in it"),
        (b"{}", "missing required field `keys`"),
        (b'{"keys":[]}', "there is no key in it"),
        (b'{"keys":[{"kty":"oct","k":"AAAA"}]}', "key 1 is secret"),
        (b'{"keys":[%b]}' % json.dumps(secret).encode(), "Expected `object`"),
        (b'{"keys":[%b]}' % secret.encode(), "key 1 is secret"),
        (json.dumps({"keys": [one.jwk(kid="a"), signers["other"].jwk(kid="a")]}).encode(), "two"),
        (one.certificate + private, "a private key has no place here"),
        (p384.public_bytes(PEM, info), "neither RSA nor of P-256"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "--token-keys"),
        (b"-----BEGIN X-----\nAAAA\n-----END X-----\n", "expected CERTIFICATE"),
    ):
        (tmp_path / "keys").write_bytes(data)
        with pytest.raises(InvalidArgument, match=why):
            read_keys(str(tmp_path / "keys"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--token-issuer", "x"), "--token-issuer goes with --token-keys"),
        (("--token-keys", "x"), "--token-issuer"),
        (("--token-keys", "x", "--token-issuer", "x"), "--token-realm"),
        (("--token-keys", "x", "--token-issuer", "x", "--token-realm", "x"), "--token-realm x"),
        (
            ("--token-keys", "x", "--token-issuer", "x", "--token-service", 'a"b'),
            "--token-service",
        ),
        (
            ("--htpasswd", "x", "--auth", "basic", "--token-keys", "x", "--token-issuer", "x"),
            "--auth basic",
        ),
    ],
)
def test_options_that_do_not_go_are_refused(words: tuple[str, ...], said: str) -> None:
    client = Client.__new__(Client)  # there is no daemon in this
    with pytest.raises(InvalidArgument, match=said):
        serve(client, list(words))
