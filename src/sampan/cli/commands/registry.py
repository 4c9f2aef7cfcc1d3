"""``registry``: be a registry. Unlike other commands these speak to no daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli.commands.common import read
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.client import Client
    from sampan.cli.flags import Values
    from sampan.daemon.registry.options import Settings, Where

__all__ = ["fsck", "gc", "retention", "serve"]

_ROOT = Flag("root", "str", "The registry's directory", hint="dir")
_POLICY = Flag("policy", "str", "Immutable tags, retention, quotas, rates (TOML)", hint="file")
_WHERE = [
    _ROOT,
    Flag("storage", "str", "Blobs in a bucket: s3://BUCKET[/PREFIX][?endpoint=URL]", hint="url"),
    Flag("database", "str", "Rows in PostgreSQL: postgresql://[USER@]HOST/NAME", hint="url"),
]
_SERVE = [
    *_WHERE,
    Flag("no-redirect", "bool", "Send blobs from the bucket, instead of clients to it"),
    Flag("listen", "list", "Serve at this address (127.0.0.1:5000)", hint="host:port"),
    Flag(
        "htpasswd",
        "str",
        "Accounts: a file of sampan registry account, or htpasswd -B",
        hint="file",
    ),
    Flag("access", "str", "Who may do what with which repositories (TOML)", hint="file"),
    Flag("anonymous-pull", "bool", "Let anybody pull; accounts may do everything"),
    Flag("auth", "str", "How clients log in: token or basic (token)"),
    Flag(
        "token-keys", "str", "Take another server's tokens by these keys (JWKS, PEM)", hint="file"
    ),
    Flag("token-issuer", "str", "Who that server says it is (iss)"),
    Flag("token-service", "str", "Whom its tokens are for (aud; sampan-registry)"),
    Flag("token-realm", "str", "Where clients get them", hint="url"),
    Flag("public-url", "str", "How clients reach this registry, where a proxy is between"),
    _POLICY,
    Flag("apply-retention", "bool", "Collections remove tags by the policy's retention"),
    Flag("proxy", "str", "Be a cache of this registry: https://HOST[:PORT]", hint="url"),
    Flag("proxy-credentials", "str", "Username and password there (TOML)", hint="file"),
    Flag("proxy-expiry", "duration", "When a tag is looked up there again (5m)"),
    Flag("proxy-keep", "duration", "How long what nobody uses is kept (168h)"),
    Flag("proxy-size", "bytes", "Most bytes of blobs to keep; 0 for any (0)"),
    Flag("tls-cert", "str", "Serve TLS with this certificate; SIGHUP reads it anew", hint="file"),
    Flag("tls-key", "str", "Its key", hint="file"),
    Flag("tls-client-ca", "str", "Clients must be signed by this authority", hint="file"),
    Flag("read-only", "bool", "Neither pushes nor deletions, nor collections"),
    Flag("metrics", "str", "Serve Prometheus metrics at this address", hint="host:port"),
    Flag("access-log", "bool", "Log each request"),
    Flag("audit-log", "str", "Append who did what to this file; SIGHUP reopens it", hint="file"),
    Flag("drain", "duration", "How long to finish requests when told to stop (30s)"),
    Flag("collect-every", "duration", "Between two collections; 0 for never (15m)"),
    Flag("lease", "duration", "How long a blob stays that no manifest uses (1h)"),
    Flag("upload-age", "duration", "How long an upload stays that nothing comes for (24h)"),
    Flag("log-level", "str", "debug, info, warn or error", short="l"),
    Flag("log-format", "str", "text or json"),
    Flag("quota", "str", "", refused="write [[quota]] in the file of --policy"),
    Flag("rate-limit", "str", "", refused="write [[rate]] in the file of --policy"),
    Flag("retention", "str", "", refused="write [[retention]] in the file of --policy"),
    Flag("immutable-tags", "str", "", refused="write [[immutable]] in the file of --policy"),
]


def serve(client: Client, argv: list[str]) -> int:
    """``registry serve``"""
    values = read(
        "registry serve",
        "[OPTIONS]",
        "Be a private registry, in this process",
        _SERVE,
        argv,
        most=0,
    )
    if values is None:
        return 0
    from sampan.daemon import lean

    with lean.IMPORTS:
        from sampan.daemon.registry import options
        from sampan.daemon.registry.main import serve as run
    return run(
        options.Options(
            where=_where(values),
            redirect=not values.flag("no-redirect"),
            listen=tuple(
                options.parse_listen(text)
                for text in values.items("listen") or [options.DEFAULT_LISTEN]
            ),
            drain=_seconds(values, "drain", 30),
            collect=_seconds(values, "collect-every", 900),
            lease=_seconds(values, "lease", 3600),
            upload=_seconds(values, "upload-age", 24 * 3600),
            read_only=values.flag("read-only"),
            tls=options.tls(
                values.text("tls-cert"), values.text("tls-key"), values.text("tls-client-ca")
            ),
            login=options.login(
                values.text("htpasswd"),
                values.text("access"),
                anonymous_pull=values.flag("anonymous-pull"),
                scheme=values.text("auth"),
                public_url=values.text("public-url"),
                issuer=options.issuer(
                    values.text("token-keys"),
                    values.text("token-issuer"),
                    values.text("token-service"),
                    values.text("token-realm"),
                ),
            ),
            policy=values.text("policy"),
            retain=options.retain(values.text("policy"), values.flag("apply-retention")),
            proxy=_proxy(values),
            credentials=values.text("proxy-credentials"),
            metrics=(
                options.parse_listen(values.text("metrics"), "--metrics")
                if values.given("metrics")
                else None
            ),
            access_log=values.flag("access-log"),
            audit_log=values.text("audit-log"),
            log_level=values.text("log-level", "info"),
            log_format=values.text("log-format", "text"),
        )
    )


def _proxy(values: Values) -> Settings | None:
    from sampan.daemon.registry import options

    others = [flag.name for flag in _SERVE if not flag.refused and values.given(flag.name)]
    return options.proxy(
        options.Proxy(
            url=values.text("proxy"),
            credentials=values.text("proxy-credentials"),
            expiry=_seconds(values, "proxy-expiry", 300),
            keep=_seconds(values, "proxy-keep", 7 * 24 * 3600),
            size=values.number("proxy-size"),
            others=tuple(others),
        )
    )


def _where(values: Values) -> Where:
    from sampan.daemon.registry import options

    return options.Where(
        values.text("root") or options.default_root(),
        values.text("storage"),
        values.text("database"),
    )


def _seconds(values: Values, name: str, default: float) -> float:
    seconds = values.number(name, round(default * 1e9)) / 1e9
    if seconds < 0:
        raise InvalidArgument(f"--{name}: a length of time cannot be negative")
    return seconds


def gc(client: Client, argv: list[str]) -> int:
    """``registry gc``"""
    flags = [
        *_WHERE,
        Flag("dry-run", "bool", "Remove nothing; say what would be, and why each byte is there"),
        Flag("upload-age", "duration", "How long an upload stays that nothing comes for (24h)"),
    ]
    summary = (
        "Remove what nothing uses: blobs without a manifest whose lease is over, uploads that\n"
        "nothing comes for, bytes that no blob was made of. The registry may be serving."
    )
    values = read("registry gc", "[OPTIONS]", summary, flags, argv, most=0)
    if values is None:
        return 0
    from sampan.daemon.registry import tools

    age = _seconds(values, "upload-age", 24 * 3600)
    return tools.collect(_where(values), dry=values.flag("dry-run"), upload_seconds=age)


def retention(client: Client, argv: list[str]) -> int:
    """``registry retention``"""
    flags = [
        *_WHERE,
        _POLICY,
        Flag("apply", "bool", "Remove it; without this nothing is removed"),
        Flag("all", "bool", "Say also what stays, and why", short="a"),
    ]
    summary = (
        "Say which tags and manifests the policy's retention lets go, and why; remove them with\n"
        "--apply. Their blobs go with a collection. The registry may be serving."
    )
    values = read("registry retention", "[OPTIONS]", summary, flags, argv, most=0)
    if values is None:
        return 0
    if not values.text("policy"):
        raise InvalidArgument("the rules are in a file: say which by --policy")
    if values.flag("apply") and values.flag("all"):
        raise InvalidArgument("--all is for explaining, without --apply")
    from sampan.daemon.registry import tools

    return tools.retain(
        _where(values),
        values.text("policy"),
        apply=values.flag("apply"),
        everything=values.flag("all"),
    )


def fsck(client: Client, argv: list[str]) -> int:
    """``registry fsck``"""
    flags = [
        *_WHERE,
        Flag("quick", "bool", "Hold blobs against their sizes only, not their digests"),
    ]
    summary = (
        "Hold all rows against one another and all bytes against their digests. A blob that is\n"
        "wrong is set aside, and the tags that it hurts are named. The registry may be serving."
    )
    values = read("registry fsck", "[OPTIONS]", summary, flags, argv, most=0)
    if values is None:
        return 0
    from sampan.daemon.registry import tools

    return tools.examine(_where(values), read=not values.flag("quick"))
