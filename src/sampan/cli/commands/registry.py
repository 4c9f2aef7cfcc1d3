"""``registry``: be a registry. Unlike other commands these speak to no daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli.commands.common import read
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["serve"]

_ROOT = Flag("root", "str", "The registry's directory", hint="dir")
_NOT_YET = "is not there yet"
_SERVE = [
    _ROOT,
    Flag("listen", "list", "Serve at this address (127.0.0.1:5000)", hint="host:port"),
    Flag("drain", "duration", "How long to finish requests when told to stop (30s)"),
    Flag("log-level", "str", "debug, info, warn or error", short="l"),
    Flag("log-format", "str", "text or json"),
    Flag("storage", "str", "", refused=f"storage other than the root {_NOT_YET}"),
    Flag("database", "str", "", refused=f"a database other than the root's SQLite {_NOT_YET}"),
    Flag("proxy", "str", "", refused=f"being another registry's cache {_NOT_YET}"),
    Flag("quota", "str", "", refused=f"a limit to a repository's size {_NOT_YET}"),
    Flag("rate-limit", "str", "", refused=f"a limit to requests {_NOT_YET}"),
    Flag("retention", "str", "", refused=f"removing tags by rule {_NOT_YET}"),
    Flag("immutable-tags", "str", "", refused=f"tags that never move: this {_NOT_YET}"),
    Flag("audit-log", "str", "", refused=f"an audit log {_NOT_YET}"),
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
    drain = values.number("drain", 30 * 10**9) / 1e9
    if drain < 0:
        raise InvalidArgument("--drain: a length of time cannot be negative")
    return run(
        options.Options(
            root=values.text("root") or options.default_root(),
            listen=tuple(
                options.parse_listen(text)
                for text in values.items("listen") or [options.DEFAULT_LISTEN]
            ),
            drain=drain,
            log_level=values.text("log-level", "info"),
            log_format=values.text("log-format", "text"),
        )
    )
