"""What ``sampan registry serve`` was told, checked."""

from __future__ import annotations

import os
import re

import msgspec

from sampan.errors import InvalidArgument
from sampan.registry.cache.settings import Settings, read_settings
from sampan.registry.server.access.tokens import SERVICE
from sampan.registry.server.backends import Where

__all__ = [
    "DEFAULT_LISTEN",
    "Listen",
    "Options",
    "Settings",
    "Where",
    "default_root",
    "parse_listen",
]

DEFAULT_LISTEN = "127.0.0.1:5000"
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*)):([0-9]{1,5})")


class Listen(msgspec.Struct, frozen=True):
    """``host`` is empty for every address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Tls(msgspec.Struct, frozen=True):
    """Files in PEM; with ``client_ca`` clients must show a certificate that it signed."""

    certificate: str
    key: str
    client_ca: str


class Issuer(msgspec.Struct, frozen=True):
    """Another token server: ``keys`` is a file, ``realm`` where clients are sent, perhaps empty."""

    keys: str
    name: str
    service: str
    realm: str


class Login(msgspec.Struct, frozen=True):
    """``accounts`` and ``rules`` are files, which may be missing: accounts with an ``issuer``."""

    accounts: str
    rules: str
    anonymous_pull: bool
    bearer: bool
    public_url: str
    issuer: Issuer | None = None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds. ``drain`` is for requests that are under way when the server is told to
    stop, ``collect`` between two collections (0: never), ``lease`` how long a blob stays that no
    manifest uses, ``upload`` how long an upload that nothing comes for. ``policy`` is a file, whose
    retention collections apply with ``retain``. ``redirect``: clients may be sent to the bucket.
    ``proxy`` is for a cache, ``credentials`` the file that its credentials were read from.
    """

    where: Where
    listen: tuple[Listen, ...]
    redirect: bool = True
    drain: float = 30.0
    collect: float = 900.0
    lease: float = 3600.0
    upload: float = 24 * 3600.0
    read_only: bool = False
    tls: Tls | None = None
    login: Login | None = None
    policy: str = ""
    retain: bool = False
    proxy: Settings | None = None
    credentials: str = ""
    metrics: Listen | None = None
    access_log: bool = False
    audit_log: str = ""
    log_level: str = "info"
    log_format: str = "text"


def default_root() -> str:
    """Where the engine's own data root is, for root and for a user."""
    if os.geteuid() == 0:
        return "/var/lib/sampan/registry"
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"{data}/sampan/registry"


def parse_listen(text: str, flag: str = "--listen") -> Listen:
    """``HOST:PORT``, ``[::1]:PORT`` or ``:PORT``. Raises InvalidArgument."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise InvalidArgument(f"{flag} {text}: expected HOST:PORT, such as {DEFAULT_LISTEN}")
    return Listen(match[1] or match[2] or "", int(match[3]))


def issuer(keys: str, name: str, service: str, realm: str) -> Issuer | None:
    """Raises InvalidArgument."""
    if not keys:
        for flag, given in (("issuer", name), ("service", service), ("realm", realm)):
            if given:
                raise InvalidArgument(f"--token-{flag} goes with --token-keys")
        return None
    if not name:
        raise InvalidArgument("--token-keys: say whose tokens they sign by --token-issuer")
    if not re.fullmatch(r"[!#-\[\]-~]*", service):
        raise InvalidArgument(f"--token-service {service}: a name without spaces and quotes")
    if realm and not re.fullmatch(r"https?://[^\s\"\\]+", realm):
        raise InvalidArgument(f"--token-realm {realm}: expected https://HOST/PATH")
    return Issuer(keys, name, service or SERVICE, realm)


def login(
    accounts: str,
    rules: str,
    *,
    anonymous_pull: bool,
    scheme: str,
    public_url: str,
    issuer: Issuer | None = None,
) -> Login | None:
    """Raises InvalidArgument for what does not go together."""
    if scheme not in ("", "token", "basic"):
        raise InvalidArgument(f"--auth {scheme}: use token or basic")
    if issuer is not None:
        if scheme == "basic":
            raise InvalidArgument("--token-keys: tokens do not go with --auth basic")
        if not accounts and not issuer.realm:
            raise InvalidArgument(
                "--token-keys: say where clients get their tokens by --token-realm, or let them "
                "have accounts here by --htpasswd"
            )
    if not accounts and issuer is None:
        for flag, given in (("--access", rules), ("--auth", scheme)):
            if given:
                raise InvalidArgument(f"{flag} says who may do what: give accounts by --htpasswd")
        if anonymous_pull:
            raise InvalidArgument(
                "--anonymous-pull: without --htpasswd everybody may pull and push"
            )
        return None
    if rules and anonymous_pull:
        raise InvalidArgument('--anonymous-pull is a rule for "anonymous" in the file of --access')
    if scheme == "basic" and anonymous_pull:
        # Docker's daemon does not ask at all, without a password, where it was offered Basic.
        raise InvalidArgument("--anonymous-pull needs --auth token: docker asks nothing with Basic")
    if public_url and not re.fullmatch(r"https?://[^/\s\"]+", public_url):
        raise InvalidArgument(f"--public-url {public_url}: expected https://HOST[:PORT]")
    return Login(accounts, rules, anonymous_pull, scheme != "basic", public_url, issuer)


def retain(policy: str, asked: bool) -> bool:
    """Raises InvalidArgument."""
    if asked and not policy:
        raise InvalidArgument("--apply-retention applies the rules of a file: give it by --policy")
    return asked


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """What was said of a cache, as text and seconds; ``others`` are flags that were given."""

    url: str
    credentials: str
    expiry: float
    keep: float
    size: int
    others: tuple[str, ...]


_NOT_A_CACHE = {
    "lease": "in a cache this is --proxy-keep",
    "read-only": "a cache that may store nothing is none",
    "storage": "a cache has its blobs in the root",
    "database": "a cache has its rows in the root",
}
_ONLY_A_CACHE = ("proxy-credentials", "proxy-expiry", "proxy-keep", "proxy-size")


def proxy(asked: Proxy) -> Settings | None:
    """Raises InvalidArgument."""
    if not asked.url:
        for flag in _ONLY_A_CACHE:
            if flag in asked.others:
                raise InvalidArgument(f"--{flag} is for a cache: say of which registry by --proxy")
        return None
    for flag, why in _NOT_A_CACHE.items():
        if flag in asked.others:
            raise InvalidArgument(f"--{flag} with --proxy: {why}")
    return read_settings(
        asked.url,
        asked.credentials,
        os.environ,
        expiry=asked.expiry,
        keep=asked.keep,
        size=asked.size,
    )


def tls(certificate: str, key: str, client_ca: str) -> Tls | None:
    """Raises InvalidArgument."""
    if not (certificate or key or client_ca):
        return None
    if not (certificate and key):
        raise InvalidArgument("TLS needs both --tls-cert and --tls-key")
    return Tls(certificate, key, client_ca)
